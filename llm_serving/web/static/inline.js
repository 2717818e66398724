// A line of markdown → DOM nodes: inline code, bold, italic, links. Text is never read as HTML, and what is
// not understood stays text. One pass; the work is linear in the length whatever the text.

const LINK = /\[([^[\]\n]{1,500})\]\(([^()\s]{1,2000}(?:\([^()\s]{0,500}\)[^()\s]{0,500}){0,4})\)/y;
const MARK = /[\\`*_[]/g;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}_]/u;
const TAGS = { "**": "strong", "__": "strong", "*": "em", "_": "em" };

/** Append `text` to `parent` as nodes. */
export function appendInline(parent, text) {
  new InlineReader(parent, text).read();
}

class InlineReader {
  constructor(parent, text) {
    this.text = text;
    this.open = [{ node: parent, mark: null }]; // the innermost is the last
    this.plain = ""; // not appended yet
    this.unclosed = new Set(); // runs of backticks that have no partner further on
  }

  read() {
    let at = 0;
    while (at < this.text.length) {
      MARK.lastIndex = at;
      const next = MARK.exec(this.text)?.index ?? this.text.length;
      this.plain += this.text.slice(at, next);
      at = next < this.text.length ? next + this.readMark(next) : next;
    }
    while (this.open.length > 1) this.unwrap();
    this.flush();
  }

  /** Take what begins at `at`; how many characters that were. */
  readMark(at) {
    const sign = this.text[at];
    if (sign === "\\") return this.readEscape(at);
    if (sign === "`") return this.readCode(at);
    if (sign === "[") return this.readLink(at);
    const twice = sign + sign;
    const closesInner = this.open.at(-1).mark === sign && this.text.startsWith(twice, at + 1); // ***so***
    return this.readEmphasis(at, this.text[at + 1] === sign && !closesInner ? twice : sign);
  }

  readEscape(at) {
    const next = this.text[at + 1] ?? "";
    const isEscape = ESCAPABLE.test(next);
    this.plain += isEscape ? next : "\\";
    return isEscape ? 2 : 1;
  }

  readCode(at) {
    let end = at;
    while (this.text[end] === "`") end++;
    const run = this.text.slice(at, end);
    const close = this.unclosed.has(run.length) ? -1 : this.findRun(run, end);
    if (close < 0) {
      this.unclosed.add(run.length);
      this.plain += run;
      return run.length;
    }
    const code = document.createElement("code");
    const content = this.text.slice(end, close);
    const isPadded = content.startsWith(" ") && content.endsWith(" ") && content.trim() !== "";
    code.textContent = isPadded ? content.slice(1, -1) : content;
    this.append(code);
    return close + run.length - at;
  }

  findRun(run, from) {
    for (let at = this.text.indexOf(run, from); at >= 0; at = this.text.indexOf(run, at)) {
      let end = at;
      while (this.text[end] === "`") end++;
      if (end - at === run.length) return at;
      at = end;
    }
    return -1;
  }

  readLink(at) {
    LINK.lastIndex = at;
    const found = LINK.exec(this.text);
    const address = found && webAddress(found[2]);
    if (!address) {
      this.plain += "[";
      return 1;
    }
    const link = document.createElement("a");
    link.href = address;
    link.rel = "noopener noreferrer";
    link.target = "_blank";
    appendInline(link, found[1]);
    this.append(link);
    return found[0].length;
  }

  readEmphasis(at, mark) {
    const before = this.text[at - 1] ?? " ";
    const after = this.text[at + mark.length] ?? " ";
    const isInWord = mark[0] === "_" && WORD.test(before) && WORD.test(after);
    const depth = this.open.findIndex((each) => each.mark === mark);
    if (depth > 0 && /\S/.test(before) && !isInWord) this.close(depth);
    else if (depth < 0 && /\S/.test(after) && !isInWord) this.begin(mark);
    else this.plain += mark;
    return mark.length;
  }

  begin(mark) {
    this.flush();
    this.open.push({ node: document.createElement(TAGS[mark]), mark });
  }

  close(depth) {
    while (this.open.length > depth + 1) this.unwrap();
    this.flush();
    this.append(this.open.pop().node);
  }

  /** The innermost was no emphasis: its mark is text, and its content is its parent's. */
  unwrap() {
    this.flush();
    const { node, mark } = this.open.pop();
    this.open.at(-1).node.append(mark, ...node.childNodes);
  }

  append(node) {
    this.flush();
    this.open.at(-1).node.append(node);
  }

  flush() {
    if (this.plain) this.open.at(-1).node.append(this.plain);
    this.plain = "";
  }
}

/** The address, if it is one of the web and not of this page or of a script. */
function webAddress(text) {
  try {
    const address = new URL(text);
    return ["http:", "https:"].includes(address.protocol) ? address.href : null;
  } catch {
    return null;
  }
}
