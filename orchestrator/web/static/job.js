"use strict";
// A job, live: its curves, and the parts of the page that are fetched anew when an event says so.

const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]; // Okabe and Ito: told apart by all
const SMOOTH = 0.9; // of an exponential mean

// At most one call a second, and one after the last wish.
function throttled(call) {
  let timer = null;
  return () => (timer ??= setTimeout(() => ((timer = null), call()), 1000));
}

// --- curves ---

const curves = new Map(); // name -> {steps, values, plot, output}
let marks = [];

function smoothed(values) {
  let mean = values[0];
  return values.map((value) => (mean = SMOOTH * mean + (1 - SMOOTH) * value));
}

function dataOf(curve) {
  return [curve.steps, curve.values, byId("smooth").checked ? smoothed(curve.values) : curve.values];
}

function drawMarks(plot) {
  const { ctx, bbox } = plot;
  ctx.save();
  for (const mark of marks) {
    const x = Math.round(plot.valToPos(mark.step, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    const again = mark.kind === "attempt";
    ctx.strokeStyle = again ? "#d5433a" : "#8886";
    ctx.setLineDash(again ? [6, 5] : []);
    ctx.beginPath();
    ctx.moveTo(x, again ? bbox.top : bbox.top + bbox.height - 14);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

function plotOf(box, color, width) {
  const css = getComputedStyle(document.body);
  const axis = { stroke: css.getPropertyValue("color"), grid: { stroke: "#8883", width: 1 }, ticks: { show: false }, size: 30 };
  const text = (v) => (v == null ? "" : v && (Math.abs(v) >= 1e5 || Math.abs(v) < 1e-4) ? v.toExponential(1) : String(+v.toPrecision(4)));
  return new uPlot({
    width, height: 190, legend: { show: false }, cursor: { sync: { key: "job" }, y: false },
    scales: { x: { time: false }, y: { distr: byId("log-y").checked ? 3 : 1 } },
    axes: [axis, { ...axis, size: 62, values: (plot, values) => values.map(text) }],
    series: [{}, { stroke: color + "55", width: 1, points: { show: false } }, { stroke: color, width: 2, points: { show: false } }],
    hooks: { draw: [drawMarks] },
  }, [[], [], []], box);
}

function curveOf(name) {
  if (curves.has(name)) return curves.get(name);
  byId("no-curves")?.remove();
  const box = document.createElement("div");
  const title = document.createElement("h3");
  const label = document.createElement("span");
  const dot = document.createElement("i");
  const output = document.createElement("output");
  const color = COLORS[curves.size % COLORS.length];
  box.className = "curve";
  dot.style.background = color;
  label.append(dot, name);
  title.append(label, output);
  box.append(title);
  byId("curves").append(box);
  const curve = { box, color, output, steps: [], values: [], plot: null };
  curves.set(name, curve);
  return curve;
}

function draw(curve, afresh = false) {
  if (afresh) { curve.plot?.destroy(); curve.plot = null; }
  curve.plot ??= plotOf(curve.box, curve.color, curve.box.clientWidth);
  curve.plot.setData(dataOf(curve));
  curve.output.value = String(+(curve.values.at(-1) ?? NaN).toPrecision(4));
  curve.box.dataset.points = curve.steps.length;
}

const drawAll = (afresh = false) => curves.forEach((curve) => draw(curve, afresh));
const drawSoon = throttled(() => drawAll());

// --- a job, live ---

const soon = { overview: throttled(() => refresh("overview")), gallery: throttled(() => refresh("gallery")) };
const HANDLERS = {
  metric(event) {
    for (const [name, points] of Object.entries(event.points)) {
      const curve = curveOf(name);
      const last = curve.steps.at(-1) ?? 0;
      for (const [step, value] of points) if (step > last) { curve.steps.push(step); curve.values.push(value); }
    }
    drawSoon();
  },
  status(event) {
    if (event.resumed_from != null) { // what lay beyond was dropped and comes again
      for (const curve of curves.values()) {
        const keep = curve.steps.filter((step) => step <= event.resumed_from).length;
        curve.steps.length = curve.values.length = keep;
      }
      if (event.attempt > 1) marks.push({ step: event.resumed_from, kind: "attempt" });
      drawSoon();
      soon.gallery();
    }
  },
  checkpoint(event) { marks.push({ step: event.step, kind: "checkpoint" }); drawSoon(); },
  sample() { soon.gallery(); },
  log(event) {
    const log = byId("log");
    const follow = log.scrollTop + log.clientHeight > log.scrollHeight - 30;
    for (const line of event.lines) {
      const text = document.createElement("span");
      text.className = line.level;
      text.textContent = line.text;
      log.append(text, "\n");
    }
    if (follow) log.scrollTop = log.scrollHeight;
  },
};

async function watch(page) {
  const answer = await fetch(`/jobs/${page.dataset.job}/curves`);
  if (!answer.ok) return say(await reason(answer));
  const past = await answer.json();
  marks = past.marks;
  for (const term of past.terms) Object.assign(curveOf(term.name), { steps: term.steps, values: term.values });
  drawAll();
  byId("log").scrollTop = byId("log").scrollHeight;
  for (const id of ["log-y", "smooth"]) byId(id).addEventListener("change", () => drawAll(true));
  addEventListener("resize", throttled(() => drawAll(true)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(true));
  if (page.dataset.ended === "true") return;
  const stream = new EventSource(`/v1/jobs/${page.dataset.job}/events?after=${past.last_id}`);
  for (const [kind, take] of Object.entries(HANDLERS)) {
    stream.addEventListener(kind, (event) => { take(JSON.parse(event.data)); soon.overview(); });
  }
  stream.addEventListener("end", () => { stream.close(); soon.overview(); soon.gallery(); });
}

watch(byId("job"));
