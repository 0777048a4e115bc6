"use strict";
// The form of the page of comparisons: models are chosen, pictures named as on the command line, one a line.

const form = byId("new");

function pictures(role) {
  const lines = form.elements[role].value.split("\n").map((line) => line.trim()).filter(Boolean);
  const [dataset] = (lines[0] ?? "").split(":");
  if (!lines.every((line) => line.startsWith(`${dataset}:`))) throw new Error(`${role}: write DATASET:PATH, all of one dataset`);
  return { dataset, paths: lines.map((line) => line.slice(dataset.length + 1)) };
}

function comparison() {
  const chosen = [...form.elements.models.selectedOptions];
  return {
    models: chosen.map((option) => ({ model: option.value })), content: pictures("content"), style: pictures("style"),
    size: Number(form.elements.size.value),
  };
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button"), state = form.querySelector("[role=status]");
  button.disabled = true;
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch("/v1/comparisons", { method: "POST", headers, body: JSON.stringify(comparison()) });
    if (!answer.ok) throw new Error(await reason(answer));
    location.assign(answer.headers.get("Location").replace("/v1", ""));
  } catch (error) {
    state.textContent = error.message;
  }
  button.disabled = false;
});
