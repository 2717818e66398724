// The key, if the server asks for one: kept for this tab, until it is closed.

const NAME = "llm-serving.key";
const dialog = document.getElementById("key-dialog");
const field = document.getElementById("key");
const reason = document.getElementById("key-reason");

let kept = null; // where the browser refuses storage
let asking = null;

export function apiKey() {
  try {
    return sessionStorage.getItem(NAME) ?? kept;
  } catch {
    return kept;
  }
}

export function forgetKey() {
  keep(null);
}

/** Ask for a key because of `message`; whether there is a new one now. Who asks meanwhile waits for the same. */
export function askForKey(message) {
  asking ??= ask(message).finally(() => { asking = null; });
  return asking;
}

function ask(message) {
  reason.textContent = message;
  field.value = "";
  const before = document.activeElement;
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const key = dialog.returnValue;
      dialog.returnValue = "";
      field.value = "";
      if (key) keep(key);
      before?.focus();
      resolve(key !== "");
    }, { once: true });
  });
}

function keep(key) {
  kept = key;
  try {
    if (key === null) sessionStorage.removeItem(NAME);
    else sessionStorage.setItem(NAME, key);
  } catch {
    // It is in `kept`.
  }
}

dialog.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  dialog.close(field.value);
});
document.getElementById("key-cancel").addEventListener("click", () => dialog.close(""));
