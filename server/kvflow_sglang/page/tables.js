// Tables that change only the cells that differ. Names become text, never markup.

import { share } from "./text.js";

export const PARTS = ["device", "host", "loading", "gone"];

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function makeBar() {
  const bar = document.createElement("div");
  bar.className = "bar";
  bar.setAttribute("aria-hidden", "true");
  return bar;
}

// A background and no elements: it is painted, and nothing has to be laid out again.
export function setBar(bar, prefix) {
  const shown = prefix === null ? "none" : PARTS.map((part) => prefix[part]).join();
  if (bar.dataset.shown === shown) return;
  bar.dataset.shown = shown;
  const whole = prefix === null ? 0 : PARTS.reduce((sum, part) => sum + prefix[part], 0);
  let start = 0;
  const stops = PARTS.map((part) => {
    const end = whole ? start + (100 * prefix[part]) / whole : 0;
    const stop = `var(--${part}) ${start.toFixed(1)}% ${end.toFixed(1)}%`;
    start = end;
    return stop;
  });
  bar.style.backgroundImage = whole ? `linear-gradient(to right, ${stops.join(", ")})` : "none";
}

// One column: `text(row)`, or `bar(row)` for a prefix; the first column names its row.
export class Table {
  constructor(table, columns, { onChoose } = {}) {
    this.body = table.tBodies[0];
    this.columns = columns;
    this.onChoose = onChoose;
    this.names = [];
    this.colors = [];
    if (onChoose) {
      this.body.addEventListener("click", (event) => this.choose(event.target));
      this.body.addEventListener("keydown", (event) => this.move(event));
    }
  }

  // A generator: a slice of rows for each frame.
  *render(rows, { name, selected, color, slice = 12 }) {
    while (this.body.rows.length > rows.length) this.body.deleteRow(-1);
    this.names.length = rows.length;
    for (let index = 0; index < rows.length; index += 1) {
      const line = this.body.rows[index] ?? this.addRow();
      this.names[index] = name(rows[index]);
      this.fill(line, rows[index], index, color);
      const isSelected = selected !== undefined && this.names[index] === selected;
      line.classList.toggle("selected", isSelected);
      if (this.onChoose) line.cells[0].firstChild.setAttribute("aria-pressed", String(isSelected));
      if (index % slice === slice - 1) yield;
    }
    this.keepOneTabStop();
  }

  fill(line, row, index, color) {
    this.columns.forEach((column, place) => {
      const cell = line.cells[place];
      if (column.bar) {
        setBar(cell.firstChild, column.bar(row));
      } else {
        const text = column.text(row);
        const target = place === 0 && this.onChoose ? cell.firstChild : cell;
        if (color && place === 0) {
          this.paint(cell, color(row), text);
        } else {
          setText(target, text);
          if (place === 0 && target.title !== text) target.title = text;
        }
      }
    });
  }

  paint(cell, color, text) {
    if (!cell.firstElementChild) {
      cell.append(Object.assign(document.createElement("span"), { className: "swatch" }), "");
    }
    cell.firstElementChild.style.background = color;
    const label = cell.lastChild;
    if (label.nodeValue !== text) label.nodeValue = text;
    if (cell.title !== text) cell.title = text;
  }

  addRow() {
    const line = this.body.insertRow();
    this.columns.forEach((column, place) => {
      const cell = document.createElement(place === 0 ? "th" : "td");
      if (place === 0) cell.scope = "row";
      if (column.number) cell.className = "number";
      if (column.bar) cell.append(makeBar());
      if (place === 0 && this.onChoose) {
        const button = document.createElement("button");
        button.type = "button";
        button.tabIndex = -1;
        cell.append(button);
      }
      if (place === 0 && column.swatch) {
        cell.append(Object.assign(document.createElement("span"), { className: "swatch" }));
        cell.append(document.createTextNode(""));
      }
      line.append(cell);
    });
    return line;
  }

  choose(target) {
    const line = target.closest("tr");
    if (line) this.onChoose(this.names[line.sectionRowIndex]);
  }

  // Arrow keys go from row to row: the table is one tab stop, however long it is.
  move(event) {
    const line = event.target.closest("tr");
    const last = this.body.rows.length - 1;
    const here = line ? line.sectionRowIndex : 0;
    const goals = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: last };
    if (!(event.key in goals)) return;
    event.preventDefault();
    const goal = Math.max(0, Math.min(last, goals[event.key]));
    for (const each of this.body.querySelectorAll('button[tabindex="0"]')) each.tabIndex = -1;
    const button = this.body.rows[goal].cells[0].firstChild;
    button.tabIndex = 0;
    button.focus();
  }

  keepOneTabStop() {
    if (!this.onChoose || this.body.querySelector('button[tabindex="0"]')) return;
    const button = this.body.querySelector("button");
    if (button) button.tabIndex = 0;
  }
}

export const found = (sums) => share(sums.device_tokens + sums.host_tokens, sums.prompt_tokens);

// Buttons for the pages before and after; `onPage(offset)`.
export class Pager {
  // `offset()` is where the reader wants to be, which the rows shown may not have reached yet.
  constructor(element, noun, { offset, onPage }) {
    this.wanted = offset;
    this.onPage = onPage;
    this.before = document.createElement("button");
    this.after = document.createElement("button");
    this.label = document.createElement("span");
    this.before.type = this.after.type = "button";
    this.before.textContent = "‹ Previous";
    this.after.textContent = "Next ›";
    this.before.setAttribute("aria-label", `Previous ${noun}`);
    this.after.setAttribute("aria-label", `Next ${noun}`);
    this.before.onclick = () => this.turn(-1);
    this.after.onclick = () => this.turn(1);
    element.append(this.label, this.before, this.after);
  }

  turn(pages) {
    const offset = Math.max(0, this.wanted() + pages * this.size);
    if (offset < this.total) this.onPage(offset);
  }

  render(offset, size, shown, total) {
    this.size = size;
    this.total = total;
    const text = shown ? `${offset + 1} to ${offset + shown} of ${total}` : `none of ${total}`;
    setText(this.label, text);
    this.before.hidden = this.after.hidden = total <= size && offset === 0;
    this.before.disabled = offset === 0;
    this.after.disabled = offset + shown >= total;
  }
}
