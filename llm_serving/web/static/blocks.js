// Lines of markdown → blocks, a line at a time: paragraphs, headings, lists, code. A block is
// `{kind: "paragraph", lines}`, `{kind: "heading", level, text}`, `{kind: "list", lines}` or
// `{kind: "code", language, indent, fence}`; lines of code are not kept here, they go to where they are shown.

const FENCE = /^(\s*)(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

export class BlockReader {
  constructor() {
    this.current = null; // the block that further lines may belong to
    this.wasBlank = false;
  }

  /** Take a line; `current` is another object when it began a block, and null when it ended one. */
  read(line) {
    const { current } = this;
    if (current?.kind === "code") {
      if (mayClose(current, line) && line.trim().length >= current.fence.length) this.current = null;
      return;
    }
    if (line.trim() === "") {
      this.wasBlank = true;
      if (current?.kind !== "list") this.current = null;
      return;
    }
    this.current = this.blockOf(line);
    this.wasBlank = false;
  }

  /** The blocks that there would be if `line` were complete: the current one, and the one that it begins. */
  preview(line) {
    const copy = new BlockReader();
    const current = this.current?.lines ? { ...this.current, lines: [...this.current.lines] } : this.current;
    copy.current = current;
    copy.wasBlank = this.wasBlank;
    if (line.trim() !== "") copy.read(line);
    return [...new Set([current, copy.current])].filter((block) => block !== null);
  }

  blockOf(line) {
    const { current } = this;
    const fence = FENCE.exec(line);
    if (fence) return { kind: "code", indent: fence[1].length, fence: fence[2], language: fence[3].trim() };
    const heading = HEADING.exec(line);
    if (heading) return { kind: "heading", level: heading[1].length, text: heading[2] };
    if (ITEM.test(line)) {
      if (current?.kind !== "list") return { kind: "list", lines: [line] };
    } else if (current?.kind === "list" ? this.wasBlank && !/^\s/.test(line) : current?.kind !== "paragraph") {
      return { kind: "paragraph", lines: [line] };
    }
    current.lines.push(line);
    return current;
  }
}

/** Whether `line`, of which more may come, can be the end of this code. */
export function mayClose(code, line) {
  const text = line.trim();
  return text !== "" && text === code.fence[0].repeat(text.length);
}

/** A line of code without the indentation of its fence. */
export function unindented(code, line) {
  let at = 0;
  while (at < code.indent && (line[at] === " " || line[at] === "\t")) at++;
  return line.slice(at);
}

/** The items of a list: `{indent, start, lines}`; `start` is the number of an item that has one, else null. */
export function itemsOf(list) {
  const items = [];
  for (const line of list.lines) {
    const found = ITEM.exec(line);
    if (!found) items.at(-1).lines.push(line.trim());
    else {
      const start = /\d/.test(found[2]) ? parseInt(found[2], 10) : null;
      items.push({ indent: found[1].length, start, lines: [found[3]] });
    }
  }
  return items;
}
