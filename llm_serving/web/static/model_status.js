// The line that tells what the model does while it cannot answer, and where it runs when it can.

import { look } from "./server.js";

const LOADING_MS = 1000;
const OTHERWISE_MS = 5000;
const line = document.getElementById("status");
const SENTENCES = {
  "not started": "The model has not been started.",
  loading: "The model is loading.",
  failed: "The model cannot answer.",
  unloading: "The model is being unloaded.",
  unloaded: "The model is unloaded.",
};

let timer = 0;

/** Ask until the model is ready; then `onReady` gets what `GET /chat` tells. */
export async function watchModel(onReady) {
  clearTimeout(timer);
  let isLoading = false;
  try {
    const { status, body } = await look("ready");
    if (status === 200) {
      const facts = (await look("chat")).body;
      tell(`Ready on ${facts.device}.`);
      onReady(facts);
      return;
    }
    isLoading = body.status === "loading";
    tell(`${SENTENCES[body.status] ?? body.status} ${isLoading ? "" : body.reason}`, !isLoading);
  } catch (error) {
    tell(error.message, true);
  }
  timer = setTimeout(() => watchModel(onReady), isLoading ? LOADING_MS : OTHERWISE_MS);
}

function tell(text, isWrong = false) {
  if (line.textContent !== text) line.textContent = text;
  line.classList.toggle("wrong", isWrong);
}
