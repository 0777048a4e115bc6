import time
import torch
from tests.workers.bench import *
from workers.process import Process
import workers.training as wt, stylemodels.train as st, stylemodels.data as sd, workers.spool as ws

def test_measure(stocked, sqlite_settings):
    cfg = dict(encoder="small-narrow", width=16, res_blocks=5, content_size=128, style_size=128, batch_size=2, steps=40, preview_images=2, preview_steps=[0], checkpoint_every=20, preview_every=1000)
    tcfg = dict(encoder="small-narrow", width=16, res_blocks=5, content_size=128, style_size=128, batch_size=2, meta_batch=1, steps=1)
    base = stocked.finished("metastyle/train", config=tcfg)
    model = stocked.model(base.id)
    process = Process("warm-1", sqlite_settings.model_copy(update={"warm_encoder": "small-narrow", "renew_s": 1.0}), warm=True, threads=1)
    marks = []
    def wrap(cls, name):
        f = getattr(cls, name)
        def g(*a, **k):
            t = time.perf_counter()
            try: return f(*a, **k)
            finally: marks.append((name, t, time.perf_counter()))
        setattr(cls, name, g)
    wrap(st.Run, "advance"); wrap(sd.Batches, "at"); wrap(ws.Spool, "step_done"); wrap(ws.Spool, "checkpoint"); wrap(st.Run, "snapshot"); wrap(wt.Training, "_draw"); wrap(ws.Spool, "drain")
    for n in range(3):
        job = stocked.submit("metastyle/adapt", config=cfg, base=model)
        ticket = stocked.claim(); marks.clear()
        t0 = time.perf_counter(); assert process.run(ticket) == "succeeded"; t1 = time.perf_counter()
        by = {}
        for name, s, e in marks: by.setdefault(name, []).append(e - s)
        adv = [m for m in marks if m[0] == "advance"]
        span = adv[-1][2] - adv[0][1]
        print(f"\nrun {n}: first step starts {1000*(adv[0][1]-t0):.0f} ms, ends {1000*(adv[0][2]-t0):.0f}; whole {t1-t0:.2f}; loop {span:.2f}, in steps {sum(by['advance']):.2f} ({100*sum(by['advance'])/span:.1f} %), after last step {1000*(t1-adv[-1][2]):.0f} ms")
        print({k: f"{len(v)}x, {1000*sum(v):.0f} ms" for k, v in by.items()})
    process.close()
