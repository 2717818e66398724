// The dialog of settings, and the choice of a model; kept in this browser.

import { load, save } from "./browser_storage.js";

const NAME = "settings";
const dialog = document.getElementById("settings");
const form = dialog.querySelector("form");
const model = document.getElementById("model");
const FIELDS = ["system", "temperature", "max_tokens"];

/** Fill in what was kept, and keep what changes. */
export function beginSettings() {
  const kept = load(NAME) ?? {};
  for (const name of FIELDS) form.elements[name].value = kept[name] ?? "";
  form.addEventListener("input", keep);
  model.addEventListener("change", keep);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close();
  });
  document.getElementById("open-settings").addEventListener("click", () => dialog.showModal());
}

/** Empty all fields. */
export function clearSettings() {
  form.reset();
  dialog.close();
}

/** The parameters of a request; what was left empty is the server's to choose. */
export function parameters() {
  const asked = { model: model.value || undefined };
  for (const name of ["temperature", "max_tokens"]) {
    if (form.elements[name].value) asked[name] = Number(form.elements[name].value);
  }
  return asked;
}

export function systemPrompt() {
  return form.elements.system.value.trim();
}

/** Offer these models; the one chosen before stays so if it is among them. */
export function offerModels(models) {
  const wanted = load(NAME)?.model;
  model.replaceChildren(...models.map(({ id }) => new Option(id, id, false, id === wanted)));
}

/** Tell what the server does when a field is empty. */
export function tellDefaults({ max_new_tokens: maxTokens, system_prompt: system }) {
  form.elements.max_tokens.placeholder = maxTokens ? String(maxTokens) : "the server's";
  form.elements.system.placeholder = system ?? "";
}

function keep() {
  const values = Object.fromEntries(FIELDS.map((name) => [name, form.elements[name].value]));
  save(NAME, { ...values, model: model.value });
}
