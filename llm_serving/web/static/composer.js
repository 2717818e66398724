// Where messages are written: keys, height, and a message that is written anew.

import { hideNotice, notice } from "./notice.js";

const form = document.getElementById("composer");
const field = document.getElementById("prompt");
const send = document.getElementById("send");
const stop = document.getElementById("stop");

let isEditing = false;
let isRunning = false;

/** `onSend` gets a text and whether it stands in for the last question; `onStop` is called while one runs. */
export function beginComposer(onSend, onStop) {
  field.addEventListener("input", fit);
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (!text || isRunning) return;
    const wasEditing = isEditing;
    endEditing();
    hideNotice();
    onSend(text, wasEditing);
  });
  stop.addEventListener("click", onStop);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.isComposing || document.querySelector("dialog[open]")) return;
    if (isRunning) onStop();
    else if (isEditing) cancelEditing();
  });
  fit();
  if (matchMedia("(pointer: fine)").matches) field.focus(); // elsewhere a keyboard would cover the page
}

/** Offer to stop while an answer is being made. */
export function setRunning(value) {
  const hadFocus = [send, stop].includes(document.activeElement);
  isRunning = value;
  send.hidden = value;
  stop.hidden = !value;
  if (hadFocus) field.focus();
}

/** Write the last question anew. */
export function edit(text) {
  isEditing = true;
  setText(text);
  notice("You are changing your last message.", "Cancel", cancelEditing);
}

export function endEditing() {
  isEditing = false;
  setText("");
}

function cancelEditing() {
  hideNotice();
  endEditing();
}

function setText(text) {
  field.value = text;
  fit();
  field.focus();
}

function fit() {
  send.disabled = field.value.trim() === "";
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
}
