// What was said, kept in this browser within bounds. A message is `{role, content}`; an answer may have
// `thoughts`, `model`, `measures` (a line to show) and `error` besides.

import { forget, load, save } from "./browser_storage.js";

const NAME = "conversation";
const MAX_MESSAGES = 200;
const MAX_CHARACTERS = 1_000_000;
const TEXTS = ["thoughts", "model", "measures", "error"];

export class Conversation {
  constructor() {
    this.messages = restored(load(NAME));
  }

  /** Keep the latest messages that fit. */
  keep() {
    let kept = latest(this.messages);
    while (kept.length && !save(NAME, kept)) kept = kept.slice(Math.ceil(kept.length / 2));
    if (!kept.length) forget(NAME);
  }

  replace(messages) {
    this.messages = messages;
    this.keep();
  }

  /** The place of the last message of the user, or -1. */
  lastQuestion() {
    return this.messages.findLastIndex((message) => message.role === "user");
  }

  /** What the server gets: without answers that never came, and with roles that take turns. */
  history(systemPrompt) {
    const history = systemPrompt ? [{ role: "system", content: systemPrompt }] : [];
    for (const { role, content } of this.messages) {
      if (!content) continue;
      const last = history.at(-1);
      if (last?.role === role) last.content += `\n\n${content}`;
      else history.push({ role, content });
    }
    return history;
  }
}

function latest(messages) {
  let numCharacters = 0;
  const first = messages.findLastIndex(({ content, thoughts = "" }) => {
    numCharacters += content.length + thoughts.length;
    return numCharacters > MAX_CHARACTERS;
  });
  return messages.slice(Math.max(first + 1, messages.length - MAX_MESSAGES));
}

/** What was stored may be of another version, or of another hand. */
function restored(stored) {
  if (!Array.isArray(stored)) return [];
  return stored.filter(isMessage).map((message) => {
    const { role, content } = message;
    const texts = TEXTS.filter((name) => typeof message[name] === "string");
    return { role, content, ...Object.fromEntries(texts.map((name) => [name, message[name]])) };
  });
}

function isMessage(value) {
  return ["user", "assistant"].includes(value?.role) && typeof value.content === "string";
}
