// The end of the conversation stays in sight as it grows, if the user is there.

const NEAR = 48; // pixels from the end that count as being there
const log = document.getElementById("log");
const button = document.getElementById("to-latest");

let isThere = true;
let place = 0; // where the log was when it was looked at last

export function beginAtBottom() {
  log.addEventListener("scroll", look, { passive: true });
  button.addEventListener("click", toBottom);
  const stay = () => (isThere ? toBottom() : look());
  const observer = new ResizeObserver(stay);
  observer.observe(document.getElementById("messages"));
  observer.observe(log);
}

export function toBottom() {
  log.scrollTop = log.scrollHeight;
  look();
}

function look() {
  // Only who goes up leaves: the log may have grown since it was scrolled, which is told a frame later.
  const isNear = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
  isThere = isNear || (isThere && log.scrollTop >= place);
  place = log.scrollTop;
  button.hidden = isThere;
}
