// What this page asks of the server. Its errors are told in its own words.

import { apiKey, askForKey } from "./api_key.js";
import { readEvents } from "./event_stream.js";

const ROOT = new URL("../", import.meta.url); // also right behind a proxy that serves us under a path

/** What the server said is wrong, or that it said nothing. */
export class ServerError extends Error {}

/** `{status, body}` of a route that needs no key: `ready`, `chat`. */
export async function look(path) {
  const response = await call(path, {});
  return { status: response.status, body: await response.json() };
}

/** The models that chat. */
export async function chatModels() {
  const response = await callWithKey("models", {});
  const { data } = await response.json();
  return data.filter((model) => model.capabilities.includes("chat"));
}

/**
 * Yields the chunks of an answer, until its end or until `signal` aborts. Of a conversation that is too long the
 * oldest messages are left out; `onTruncated` hears how many.
 */
export async function* streamAnswer(request, signal, onTruncated) {
  const how = { stream: true, stream_options: { include_usage: true }, truncation: "auto" };
  const body = JSON.stringify({ ...request, ...how });
  const headers = { "Content-Type": "application/json" };
  const response = await callWithKey("chat/completions", { method: "POST", headers, body, signal });
  const numTruncated = Number(response.headers.get("x-truncated-messages"));
  if (numTruncated) onTruncated(numTruncated);
  try {
    for await (const { event, data } of readEvents(response.body)) {
      if (event === "error") throw new ServerError(messageOf(data) ?? data);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // which is how `fetch` tells of the network
  }
  throw new ServerError("The connection broke before the answer was complete.");
}

async function callWithKey(path, options) {
  for (;;) {
    const key = apiKey();
    const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
    const response = await call(path, { ...options, headers });
    if (response.ok) return response;
    const message = messageOf(await response.text()) ?? `The server answered with ${response.status}.`;
    if (response.status !== 401 || !(await askForKey(message))) throw new ServerError(message);
  }
}

async function call(path, options) {
  try {
    return await fetch(new URL(path, ROOT), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached.");
  }
}

function messageOf(text) {
  try {
    return JSON.parse(text).error.message ?? null;
  } catch {
    return null;
  }
}
