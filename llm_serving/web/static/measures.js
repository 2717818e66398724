// How fast an answer came, as the reader sees it.

export class Stopwatch {
  constructor() {
    this.startedMs = performance.now();
    this.firstMs = null;
    this.lastMs = null;
  }

  /** A piece of the answer is here. */
  piece() {
    this.lastMs = performance.now();
    this.firstMs ??= this.lastMs;
  }

  /**
   * A line that tells it; `usage` is the server's, null if the answer was left, `end` says how it ended, and
   * `truncated` how many messages the model was not told.
   */
  line(usage, end, truncated) {
    const parts = [];
    if (usage) {
      const numTokens = usage.completion_tokens;
      parts.push(numTokens === 1 ? "1 token" : `${numTokens} tokens`);
      const seconds = (this.lastMs - this.firstMs) / 1000;
      if (numTokens > 1 && seconds > 0) parts.push(`${rounded((numTokens - 1) / seconds)} tokens/s`);
    }
    if (this.firstMs !== null) parts.push(`first after ${rounded((this.firstMs - this.startedMs) / 1000)} s`);
    if (truncated) parts.push(`without the ${truncated === 1 ? "oldest message" : `${truncated} oldest messages`}`);
    if (end) parts.push(end);
    return parts.join(" · ");
  }
}

function rounded(value) {
  return value.toFixed(value >= 10 ? 0 : value >= 1 ? 1 : 2);
}
