"use strict";
// What every page does by itself: buttons that call the API, pictures shown large, a photo that is tried.

const byId = (id) => document.getElementById(id);

function say(text) {
  const box = byId("message");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (box.hidden = true), 6000);
}

async function reason(answer) {
  const problem = await answer.json().catch(() => ({}));
  return problem.detail || `HTTP ${answer.status}`;
}

const refresh = (id) => byId(id)?.dispatchEvent(new Event("refresh"));

// --- buttons ---

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-post]");
  if (!button || (button.dataset.confirm && !confirm(button.dataset.confirm))) return;
  button.disabled = true;
  const body = button.dataset.body;
  const answer = await fetch(button.dataset.post, {
    method: "POST", body, headers: body ? { "Content-Type": "application/json" } : {},
  }).catch(() => null);
  button.disabled = false;
  if (!answer?.ok) return say(answer ? await reason(answer) : "The service does not answer.");
  if (answer.status === 201) location.assign(answer.headers.get("Location").replace("/v1", ""));
  else refresh("overview");
});

// --- pictures: a click shows one large, arrow keys go on ---

let shown = null;
function show(picture) {
  shown = picture;
  const image = picture.querySelector("img");
  byId("viewer").querySelector("img").src = image.src;
  byId("viewer").querySelector("p").textContent = image.alt;
}

document.addEventListener("click", (event) => {
  const picture = event.target.closest(".picture");
  if (picture) { show(picture); byId("viewer").showModal(); }
  else if (event.target.closest("#viewer")) byId("viewer").close();
});

document.addEventListener("keydown", (event) => {
  if (!byId("viewer").open || !event.key.startsWith("Arrow")) return;
  event.preventDefault();
  const all = [...document.querySelectorAll(".picture")];
  const columns = shown.closest("tr")?.querySelectorAll(".picture").length || 1;
  const way = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const next = all[all.indexOf(shown) + way];
  if (next) show(next);
});

// --- a photo, tried ---

async function tryIt(form, url) {
  const data = new FormData();
  for (const input of form.querySelectorAll("[type=file]")) for (const file of input.files) data.append(input.name, file);
  const params = {};
  for (const field of form.querySelectorAll("[data-param]")) {
    const numeric = field.type === "range" || field.type === "number";
    params[field.dataset.param] = field.type === "checkbox" ? field.checked : numeric ? Number(field.value) : field.value;
  }
  data.append("params", JSON.stringify(params));
  for (let tries = 1; ; tries++) {
    const answer = await fetch(url, { method: "POST", body: data });
    if (answer.ok) return answer.blob();
    if (answer.status !== 503 || tries === 20) throw new Error(await reason(answer));
    byId("try-state").textContent = "No worker is free yet; trying again…";
    await new Promise((resolve) => setTimeout(resolve, 1000 * Number(answer.headers.get("Retry-After") || 2)));
  }
}

document.addEventListener("submit", async (event) => {
  const form = event.target.closest("#try");
  if (!form) return;
  event.preventDefault();
  const state = byId("try-state"), button = form.querySelector("button"), compare = byId("compare");
  button.disabled = true;
  state.className = "faint";
  state.textContent = "Working…";
  try {
    const result = URL.createObjectURL(await tryIt(form, form.dataset.url));
    compare.querySelector(".before").src = URL.createObjectURL(form.content.files[0]);
    compare.querySelector(".after").src = byId("save").href = result;
    compare.hidden = false;
    state.textContent = "";
  } catch (error) {
    state.className = "wrong";
    state.textContent = error.message;
  }
  button.disabled = false;
});

document.addEventListener("input", (event) => {
  const stack = event.target.closest("#compare")?.querySelector(".stack");
  if (stack) stack.style.setProperty("--cut", `${event.target.value}%`);
  const output = event.target.closest(".range")?.querySelector("output");
  if (output) output.value = event.target.value;
});
