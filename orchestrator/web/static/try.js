"use strict";
// A model, tried: pictures chosen and shown, styles added, the model told, the result beside what it was made from.

const form = byId("try");
const fewest = Number(form.dataset.fewest), most = Number(form.dataset.most);

// --- pictures ---

form.addEventListener("change", (event) => {
  const field = event.target;
  if (field.matches("[data-param], [name=format]")) field.dataset.told = "";
  const image = field.closest(".drop")?.querySelector("img");
  if (!image) return;
  image.hidden = field.files.length === 0;
  if (field.files.length) image.src = URL.createObjectURL(field.files[0]);
});

form.addEventListener("input", (event) => {
  if (event.target.matches("[data-param]")) event.target.dataset.told = "";
});

for (const kind of ["dragover", "drop"]) {
  form.addEventListener(kind, (event) => {
    const field = event.target.closest(".drop")?.querySelector("input");
    if (!field) return;
    event.preventDefault();
    if (kind === "dragover" || event.dataTransfer.files.length === 0) return;
    const one = new DataTransfer();
    one.items.add(event.dataTransfer.files[0]);
    field.files = one.files;
    field.dispatchEvent(new Event("change", { bubbles: true }));
  });
}

// --- styles ---

const styles = () => [...form.querySelectorAll(".style")];

function arrange() {
  const all = styles();
  form.classList.toggle("several", all.length > 1);
  byId("add-style")?.toggleAttribute("hidden", all.length >= most);
  for (const [n, style] of all.entries()) {
    style.querySelector("b").textContent = all.length > 1 ? `Style ${n + 1}` : "Style";
    style.querySelector("[name=style]").required = n < fewest || all.length > 1;
    style.querySelector(".remove")?.toggleAttribute("hidden", all.length <= Math.max(fewest, 1));
  }
}

function addStyle() {
  byId("styles").append(byId("style").content.cloneNode(true));
  arrange();
}

if (most) addStyle();
byId("add-style")?.addEventListener("click", addStyle);
form.addEventListener("click", (event) => {
  if (!event.target.matches(".remove")) return;
  event.target.closest(".style").remove();
  arrange();
});

// --- what is asked for ---

function valueOf(field) {
  if (field.type === "checkbox") return field.checked;
  if ("json" in field.dataset) return JSON.parse(field.value);
  if (field.type !== "range" && field.type !== "number") return field.value;
  return field.value === "" ? null : Number(field.value);
}

// Only what somebody has touched is said: the model knows its defaults.
function params() {
  const told = { format: form.elements.format.value };
  for (const field of form.querySelectorAll("[data-param][data-told]")) told[field.dataset.param] = valueOf(field);
  const weights = [...form.querySelectorAll(".style [name=weight]")].map((field) => Number(field.value));
  if (weights.length > 1) told.weights = weights;
  if (form.elements.maps.checked) told.maps = true;
  return told;
}

function request() {
  const data = new FormData();
  for (const input of form.querySelectorAll("[type=file]")) {
    for (const file of input.files) data.append(input.name, file);
  }
  data.append("params", JSON.stringify(params()));
  return data;
}

// --- the way there and back ---

const state = byId("try-state");
function tell(text, wrong = false) {
  state.className = wrong ? "wrong" : "faint";
  state.textContent = text;
}

async function drawn(data) {
  for (let tries = 1; ; tries++) {
    const answer = await fetch(form.dataset.url, { method: "POST", body: data });
    if (answer.ok) return answer.blob();
    if (answer.status !== 503 || tries === 20) throw new Error(await reason(answer));
    tell("No worker is free yet; trying again…");
    await new Promise((resolve) => setTimeout(resolve, 1000 * Number(answer.headers.get("Retry-After") || 2)));
  }
}

function picture(source, alt) {
  const button = document.createElement("button");
  button.className = "picture";
  button.append(Object.assign(new Image(), { src: source, alt }));
  return button;
}

// The files of a ZIP that keeps them as they are, without compression, as the service sends it: name -> blob.
async function unzipped(blob) {
  const view = new DataView(await blob.arrayBuffer()), files = new Map();
  for (let at = 0; view.getUint32(at, true) === 0x04034b50; ) {
    const size = view.getUint32(at + 18, true), named = view.getUint16(at + 26, true);
    const start = at + 30 + named + view.getUint16(at + 28, true);
    const name = new TextDecoder().decode(new Uint8Array(view.buffer, at + 30, named));
    files.set(name, new Blob([new Uint8Array(view.buffer, start, size)], { type: `image/${name.split(".").pop()}` }));
    at = start + size;
  }
  return files;
}

// A curve's caption has its first and its last number.
async function showMaps(files) {
  const numbers = JSON.parse((await files.get("maps/figures.json")?.text()) ?? "{}");
  files.delete("maps/figures.json");
  const figures = [...files].map(([path, blob]) => {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    const name = path.replace(/^maps\/|\.png$/g, ""), values = numbers[name];
    const ends = values?.length ? [values[0], values.at(-1)].map((value) => value.toPrecision(3)) : [];
    caption.textContent = [name, ends.join(" → ")].join(" ").trim();
    figure.append(picture(URL.createObjectURL(blob), caption.textContent), caption);
    return figure;
  });
  byId("maps").replaceChildren(...figures);
  byId("maps").hidden = figures.length === 0;
}

async function showAnswer(blob, seconds) {
  const files = blob.type === "application/zip" ? await unzipped(blob) : new Map([["picture", blob]]);
  const [[name, result]] = files;
  files.delete(name);
  await showMaps(files);
  showResult(result, seconds);
}

function showResult(blob, seconds) {
  const all = byId("compare"), content = URL.createObjectURL(form.elements.content.files[0]);
  const result = URL.createObjectURL(blob), save = byId("save");
  for (const image of all.querySelectorAll(".content, .before")) image.src = content;
  for (const image of all.querySelectorAll(".result, .after")) image.src = result;
  const chosen = styles().map((style) => style.querySelector("[name=style]").files[0]).filter(Boolean);
  const shelf = all.querySelector(".of-styles");
  shelf.hidden = chosen.length === 0;
  shelf.querySelector("div").replaceChildren(
    ...chosen.map((file, n) => picture(URL.createObjectURL(file), `style ${n + 1}`)),
  );
  byId("took").textContent = `${seconds.toFixed(1)} s`;
  save.href = result;
  save.download = `${save.dataset.name}.${blob.type === "image/jpeg" ? "jpg" : blob.type.split("/")[1]}`;
  all.hidden = false;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button.main"), began = performance.now();
  button.disabled = true;
  tell("Drawing…");
  try {
    await showAnswer(await drawn(request()), (performance.now() - began) / 1000);
    tell("");
  } catch (error) {
    tell(error.message, true);
  }
  button.disabled = false;
});

byId("compare").addEventListener("input", (event) => {
  byId("compare").querySelector(".stack").style.setProperty("--cut", `${event.target.value}%`);
});
