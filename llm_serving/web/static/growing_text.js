// Markdown that grows at its end. A block is rendered when it is complete, and never again. Of the last one,
// code grows by what is new alone; others are rendered again while they are short, and then only when they
// have grown by an eighth. So the work for a text is linear in its length, whatever it says.

import { BlockReader, mayClose, unindented } from "./blocks.js";
import { render } from "./render.js";

const SHORT = 4000; // characters: rendered within a fraction of a frame
const GROWTH = 1.125;

export class GrowingText {
  /** Shows what is appended in `container`, which must be empty. */
  constructor(container) {
    this.container = container;
    this.reader = new BlockReader();
    this.line = ""; // the last one, as far as it came
    this.live = []; // nodes of what is not complete
    this.tail = null; // text that is shown behind what is rendered
    this.size = 0; // characters of the reader's current block
    this.numRendered = 0; // of those and of the line, the ones in `live`
  }

  append(text) {
    const lines = text.split("\n");
    lines[0] = this.line + lines[0];
    this.line = lines.pop();
    for (const line of lines) this.takeLine(line);
    if (this.reader.current?.kind === "code") this.showLineOfCode(text);
    else this.showLine(text);
  }

  /** There is no more to come. */
  end() {
    if (this.line) this.takeLine(this.line);
    this.line = "";
    this.settle(this.reader.current);
  }

  takeLine(line) {
    const before = this.reader.current;
    this.reader.read(line);
    const now = this.reader.current;
    if (now !== before) {
      this.settle(before);
      if (now?.kind === "code") this.replaceLive([render(now)]);
    } else if (now?.kind === "code") {
      this.dropTail();
      this.appendCode(unindented(now, line) + "\n");
    }
    this.size += line.length + 1;
  }

  /** `block` is complete: show it as it will stay. */
  settle(block) {
    if (block?.kind === "code") this.dropTail();
    else this.replaceLive(block ? [render(block)] : []);
    this.live = [];
    this.size = 0;
    this.numRendered = 0;
  }

  showLineOfCode(added) {
    const { current } = this.reader;
    if (this.tail && !added.includes("\n")) {
      this.tail.appendData(added);
      return;
    }
    this.dropTail();
    if (this.line && !mayClose(current, this.line)) {
      this.setTail(this.liveCode(), unindented(current, this.line));
    }
  }

  appendCode(text) {
    const code = this.liveCode();
    if (code.firstChild) code.firstChild.appendData(text);
    else code.append(text);
  }

  showLine(added) {
    const size = this.size + this.line.length;
    if (!this.live.length || size <= SHORT || size >= this.numRendered * GROWTH) {
      this.replaceLive(this.reader.preview(this.line).map(render));
      this.numRendered = size;
    } else if (this.tail) {
      this.tail.appendData(added);
    } else {
      const last = this.live.at(-1);
      this.setTail([...last.querySelectorAll("li")].at(-1) ?? last, added);
    }
  }

  liveCode() {
    return this.live[0].querySelector("code");
  }

  replaceLive(nodes) {
    this.dropTail();
    for (const node of this.live) node.remove();
    this.live = nodes;
    this.container.append(...nodes);
  }

  setTail(parent, text) {
    this.tail = document.createTextNode(text);
    parent.append(this.tail);
  }

  dropTail() {
    this.tail?.remove();
    this.tail = null;
  }
}
