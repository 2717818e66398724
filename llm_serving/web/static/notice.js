// One line above the composer, with one thing to do about it.

const line = document.getElementById("notice");
const [text, button] = line.children;

/** Say `sentence`, and offer `act` under `label`. */
export function notice(sentence, label, act) {
  text.textContent = sentence;
  button.textContent = label;
  button.onclick = () => {
    hideNotice();
    act();
  };
  line.hidden = false;
}

export function hideNotice() {
  line.hidden = true;
}
