// Blocks → DOM nodes.

import { itemsOf } from "./blocks.js";
import { copyButton } from "./copying.js";
import { appendInline } from "./inline.js";

const HEADINGS = ["h3", "h3", "h4", "h4", "h5", "h5"]; // under those of the page
const MAX_DEPTH = 8;

/** The node of a block; `code` comes empty. */
export function render(block) {
  switch (block.kind) {
    case "heading": return withInline(HEADINGS[block.level - 1], block.text);
    case "list": return renderList(block);
    case "code": return renderCode(block);
    default: return withInline("p", block.lines.join("\n"));
  }
}

function withInline(tag, text) {
  const node = document.createElement(tag);
  appendInline(node, text);
  return node;
}

function renderList(block) {
  const top = document.createDocumentFragment();
  const open = []; // lists, the innermost last
  for (const item of itemsOf(block)) {
    while (open.length > 1 && item.indent < open.at(-1).indent) open.pop();
    const inner = open.at(-1);
    const isDeeper = inner && item.indent >= inner.indent + 2 && open.length < MAX_DEPTH;
    if (!inner || isDeeper) open.push(beginList(item, inner ? inner.node.lastElementChild : top));
    else if (inner.isOrdered !== (item.start !== null)) {
      open.pop();
      open.push(beginList(item, open.length ? open.at(-1).node.lastElementChild : top));
    }
    open.at(-1).node.append(withInline("li", item.lines.join("\n")));
  }
  if (top.childElementCount === 1) return top.firstElementChild;
  const together = document.createElement("div");
  together.append(top);
  return together;
}

function beginList({ indent, start }, parent) {
  const isOrdered = start !== null;
  const node = document.createElement(isOrdered ? "ol" : "ul");
  if (isOrdered && start !== 1) node.start = start;
  parent.append(node);
  return { node, indent, isOrdered };
}

function renderCode({ language }) {
  const block = document.createElement("div");
  block.className = "code";
  const head = document.createElement("div");
  head.className = "head";
  const name = document.createElement("span");
  name.textContent = language;
  const code = document.createElement("code");
  const pre = document.createElement("pre");
  pre.tabIndex = 0; // so that keys can scroll it
  pre.append(code);
  head.append(name, copyButton("Copy the code", () => code.textContent));
  block.append(head, pre);
  return block;
}
