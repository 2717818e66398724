// Turns: a question, and the answer as it comes.

import { toBottom } from "./bottom.js";
import { edit, setRunning } from "./composer.js";
import { Stopwatch } from "./measures.js";
import { answerView, userView } from "./message_view.js";
import { ServerError, streamAnswer } from "./server.js";
import { parameters, systemPrompt } from "./settings.js";

const list = document.getElementById("messages");
const empty = document.getElementById("empty");
const ENDS = { length: "cut at the most tokens allowed" };

export class Chat {
  /** `onError` is called when the server did not answer. */
  constructor(conversation, onError) {
    this.conversation = conversation;
    this.onError = onError;
    this.views = [];
    this.running = null; // what aborts it
  }

  /** Show the conversation from its beginning. */
  show() {
    list.replaceChildren();
    this.views = [];
    for (const message of this.conversation.messages) this.add(message).end?.();
    this.offerActions();
    toBottom();
  }

  send(text, isCorrection) {
    const { messages } = this.conversation;
    if (isCorrection) this.cut(this.conversation.lastQuestion());
    messages.push({ role: "user", content: text });
    this.add(messages.at(-1));
    return this.answer();
  }

  /** Answer the last question again. */
  again() {
    this.cut(this.conversation.lastQuestion() + 1);
    return this.answer();
  }

  stop() {
    this.running?.abort();
  }

  /** The page is left: keep what there is of a running answer. Otherwise another tab may have kept more. */
  keepUnfinished() {
    if (this.running) this.conversation.keep();
  }

  /** Another conversation, after the running answer was left. */
  replace(messages) {
    this.stop();
    this.running = null;
    setRunning(false);
    this.conversation.replace(messages);
    this.show();
  }

  async answer() {
    const running = new AbortController();
    const asked = { ...parameters(), messages: this.conversation.history(systemPrompt()) };
    const message = { role: "assistant", content: "" };
    this.conversation.messages.push(message);
    this.conversation.keep();
    this.running = running;
    const view = this.add(message);
    view.begin();
    this.offerActions();
    setRunning(true);
    toBottom();
    await this.follow(asked, message, view, running.signal);
    view.end();
    if (this.running !== running) return; // another conversation is shown
    this.running = null;
    setRunning(false);
    this.conversation.keep();
    this.offerActions();
  }

  /** Fill `message` and its view with what comes. */
  async follow(asked, message, view, signal) {
    const watch = new Stopwatch();
    let usage = null;
    let end = "";
    let truncated = 0;
    try {
      for await (const chunk of streamAnswer(asked, signal, (count) => (truncated = count))) {
        message.model = chunk.model;
        usage = chunk.usage ?? usage;
        const choice = chunk.choices[0];
        if (choice) take(choice.delta, message, view, watch);
        end = ENDS[choice?.finish_reason] ?? end;
      }
    } catch (error) {
      if (signal.aborted) {
        end = "stopped";
      } else {
        if (!(error instanceof ServerError)) console.error(error);
        message.error = error.message;
        this.onError();
      }
    }
    message.measures = watch.line(usage, end, truncated);
  }

  add(message) {
    const view = message.role === "user" ? userView(message) : answerView(message);
    this.views.push(view);
    list.append(view.node);
    empty.hidden = true;
    return view;
  }

  /** Leave out the messages from `place` on. */
  cut(place) {
    this.conversation.messages.splice(place);
    for (const view of this.views.splice(place)) view.node.remove();
  }

  /** What can be done with the last question and the last answer. */
  offerActions() {
    const { messages } = this.conversation;
    const question = this.conversation.lastQuestion();
    empty.hidden = messages.length > 0;
    this.views.forEach((view, place) => {
      const actions = [];
      if (place === question) actions.push({ label: "Edit", act: () => edit(messages[place].content) });
      if (place === messages.length - 1 && question >= 0) {
        const isDone = messages[place].role === "assistant" && !messages[place].error;
        actions.push({ label: isDone ? "Regenerate" : "Try again", act: () => this.again() });
      }
      view.setActions(this.running ? [] : actions);
    });
  }
}

function take(delta, message, view, watch) {
  const { content, reasoning_content: thoughts } = delta;
  if (thoughts) {
    message.thoughts = (message.thoughts ?? "") + thoughts;
    view.think(thoughts);
    watch.piece();
  }
  if (content) {
    message.content += content;
    view.say(content);
    watch.piece();
  }
}
