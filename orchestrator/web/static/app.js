"use strict";
// What every page does by itself: buttons that call the API, pictures shown large, sliders.

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

// --- sliders say where they stand ---

document.addEventListener("input", (event) => {
  const output = event.target.closest(".range")?.querySelector("output");
  if (output) output.value = event.target.value;
});
