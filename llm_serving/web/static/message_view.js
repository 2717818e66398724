// One message on the page.

import { copyButton } from "./copying.js";
import { GrowingText } from "./growing_text.js";

/** A message of the user: shown as it was typed. */
export function userView(message) {
  const view = new MessageView(message, "user", "You");
  view.text.textContent = message.content;
  return view;
}

/** An answer, complete or about to grow. */
export function answerView(message) {
  const view = new AnswerView(message);
  if (message.thoughts) view.think(message.thoughts);
  if (message.content) view.say(message.content);
  return view;
}

class MessageView {
  constructor(message, role, name) {
    this.message = message;
    this.node = element("article", `message ${role}`);
    this.node.setAttribute("aria-label", name);
    this.text = element("div", "text");
    this.footer = element("footer");
    this.actions = element("span", "actions");
    this.footer.append(this.actions);
    this.node.append(this.text, this.footer);
    this.setActions([]);
  }

  /** Buttons, `{label, act}`, behind one that copies what was said. */
  setActions(actions) {
    const buttons = actions.map(({ label, act }) => {
      const button = element("button", "plain");
      button.type = "button";
      button.textContent = label;
      button.addEventListener("click", act);
      return button;
    });
    const { message } = this;
    if (message.content) buttons.unshift(copyButton("Copy the message", () => message.content));
    this.actions.replaceChildren(...buttons);
  }
}

class AnswerView extends MessageView {
  constructor(message) {
    super(message, "assistant", "Answer");
    this.measures = element("span", "measures");
    this.footer.prepend(this.measures);
    this.answer = new Batched(this.text);
    this.thoughts = null;
    this.summary = element("summary");
  }

  say(text) {
    this.summary.textContent = "Thoughts";
    this.answer.append(text);
  }

  think(text) {
    this.thoughts ??= new Batched(this.openThoughts());
    this.thoughts.append(text);
  }

  /** Before the first word and while it grows; readers of the screen hear it when it is complete. */
  begin() {
    this.node.setAttribute("aria-busy", "true");
    this.node.classList.add("waiting");
    this.footer.hidden = true;
  }

  /** The answer is complete, or as complete as it will be. */
  end() {
    this.summary.textContent = "Thoughts";
    this.thoughts?.end();
    this.answer.end();
    const { error, measures } = this.message;
    if (error) {
      const said = element("p", "error");
      said.textContent = error;
      this.footer.before(said);
    }
    this.measures.textContent = measures ?? "";
    this.footer.hidden = false;
    this.node.classList.remove("waiting");
    this.node.removeAttribute("aria-busy");
  }

  openThoughts() {
    const details = element("details", "thoughts");
    const text = element("div", "text");
    this.summary.textContent = "Thinking";
    details.append(this.summary, text);
    this.node.prepend(details);
    return text;
  }
}

/** Markdown that is shown once a frame, however many pieces came. */
class Batched {
  constructor(container) {
    this.growing = new GrowingText(container);
    this.waiting = "";
    this.frame = 0;
  }

  append(text) {
    this.waiting += text;
    this.frame ||= requestAnimationFrame(() => this.show());
  }

  end() {
    cancelAnimationFrame(this.frame);
    this.show();
    this.growing.end();
  }

  show() {
    this.frame = 0;
    if (this.waiting) this.growing.append(this.waiting);
    this.waiting = "";
  }
}

function element(tag, className = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  return node;
}
