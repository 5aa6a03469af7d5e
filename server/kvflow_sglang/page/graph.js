// The step graph as SVG: boxes with steps and a bar, arrows where calls have followed calls.

import { PARTS } from "./tables.js";
import { byName, steps } from "./text.js";

const WIDTH = 168;
const BOX_HEIGHT = 50;
const GAP = 12;
const MOST_SUCCESSORS = 4;
const FEWEST_SHARE = 0.1;
const SVG = "http://www.w3.org/2000/svg";

function make(name, attributes = {}, parent = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

const letters = (text, most) => {
  const all = [...text];
  return all.length > most ? `${all.slice(0, most - 1).join("")}…` : text;
};

// The edges worth drawing: an agent's most frequent successors, without itself.
export function mainEdges(edges) {
  const from = new Map();
  for (const [source, target, times] of edges) {
    if (source === target) continue;
    if (!from.has(source)) from.set(source, []);
    from.get(source).push({ source, target, times });
  }
  return [...from.values()].flatMap((all) => {
    const total = all.reduce((sum, each) => sum + each.times, 0);
    all.sort((one, other) => other.times - one.times);
    return all.slice(0, MOST_SUCCESSORS).filter((each) => each.times >= FEWEST_SHARE * total);
  });
}

export class Graph {
  constructor(element, onChoose) {
    this.element = element;
    this.onChoose = onChoose;
    this.worker = new Worker("page/layout.js");
    this.worker.onmessage = ({ data }) => this.place(data);
    this.shape = "";
    this.boxes = new Map();
    this.latest = null;
  }

  *render(workflow, selected) {
    const agents = [...workflow.agents].sort(byName);
    const edges = mainEdges(workflow.edges);
    const numbers = new Map(agents.map((each, index) => [each.agent, index]));
    const shape = JSON.stringify([agents.map((each) => each.agent), edges.map((each) => [each.source, each.target]).sort()]);
    this.latest = { agents, edges, selected };
    if (shape !== this.shape) {
      this.shape = shape;
      const joined = new Set(edges.flatMap((each) => [numbers.get(each.source), numbers.get(each.target)]));
      this.worker.postMessage({
        shape,
        nodes: [...joined],
        edges: edges.map((each) => [numbers.get(each.source), numbers.get(each.target)]),
        width: WIDTH,
        height: BOX_HEIGHT,
      });
    }
    if (this.placed === shape) this.update();
    yield;
  }

  // The worker has answered: draw the graph anew, those without edges in rows below it.
  place({ shape, width, height, places, lines }) {
    if (shape !== this.shape || !this.latest) return;
    const { agents, edges } = this.latest;
    const placed = new Map(places.map(({ node, x, y }) => [node, { x, y }]));
    const alone = agents.map((_, index) => index).filter((index) => !placed.has(index));
    const room = Math.max(width, this.element.clientWidth - 20);
    const columns = Math.max(1, Math.floor(room / (WIDTH + GAP)));
    alone.forEach((node, index) => {
      const x = (index % columns) * (WIDTH + GAP) + WIDTH / 2 + 8;
      placed.set(node, { x, y: height + Math.floor(index / columns) * (BOX_HEIGHT + GAP) + BOX_HEIGHT / 2 + 8 });
    });
    const rows = Math.ceil(alone.length / columns);
    const wide = Math.max(width, alone.length ? Math.min(alone.length, columns) * (WIDTH + GAP) + 8 : 0);
    const high = height + (rows ? rows * (BOX_HEIGHT + GAP) + 8 : 0);
    const svg = make("svg", { class: "steps", width: wide, height: high, viewBox: `0 0 ${wide} ${high}`, "aria-hidden": "true" });
    const defs = make("defs", {}, svg);
    const marker = make("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto-start-reverse" }, defs);
    make("path", { d: "M0 0 L8 4 L0 8 z" }, marker);
    const most = Math.max(1, ...edges.map((each) => each.times));
    lines.forEach((points, index) => {
      const wideness = 1 + 2.5 * (edges[index].times / most);
      make("path", { d: curve(points), "stroke-width": wideness.toFixed(1), "marker-end": "url(#arrow)" }, svg);
    });
    this.boxes.clear();
    agents.forEach((agent, index) => this.boxes.set(agent.agent, this.box(svg, agent.agent, placed.get(index))));
    this.element.replaceChildren(svg);
    this.placed = shape;
    this.update();
  }

  box(svg, name, { x, y }) {
    const [left, top] = [x - WIDTH / 2, y - BOX_HEIGHT / 2];
    // Not moved by a transform: each would cost the browser time in every frame.
    const group = make("g", { class: "agent" }, svg);
    group.addEventListener("click", () => this.onChoose(name));
    make("title", {}, group).textContent = name;
    make("rect", { class: "box", x: left, y: top, width: WIDTH, height: BOX_HEIGHT, rx: 4 }, group);
    make("text", { x: left + 8, y: top + 17 }, group).textContent = letters(name, 21);
    const when = make("text", { class: "when", x: left + 8, y: top + 32 }, group);
    const segments = PARTS.map((part) => make("rect", { class: `seg-${part}`, y: top + 38, height: 7 }, group));
    return { group, when, segments, left };
  }

  update() {
    const { agents, selected } = this.latest;
    for (const agent of agents) {
      const box = this.boxes.get(agent.agent);
      if (!box) continue;
      const text = agent.chance === null || agent.steps === null ? steps(agent.steps) : `${steps(agent.steps)}, ${agent.chance}%`;
      if (box.when.textContent !== text) box.when.textContent = text;
      const kind = `agent${agent.steps === 0 ? " now" : ""}${agent.agent === selected ? " selected" : ""}`;
      if (box.group.getAttribute("class") !== kind) box.group.setAttribute("class", kind);
      fillSegments(box, agent.prefix);
    }
  }
}

function fillSegments({ segments, left }, prefix) {
  const whole = prefix === null ? 0 : PARTS.reduce((sum, part) => sum + prefix[part], 0);
  let x = left + 8;
  PARTS.forEach((part, index) => {
    const width = whole ? ((WIDTH - 16) * prefix[part]) / whole : 0;
    const shown = `${x.toFixed(1)} ${width.toFixed(1)}`;
    if (segments[index].dataset.shown !== shown) {
      segments[index].dataset.shown = shown;
      segments[index].setAttribute("x", x.toFixed(1));
      segments[index].setAttribute("width", width.toFixed(1));
    }
    x += width;
  });
}

function curve(points) {
  const [first, ...rest] = points;
  let path = `M${first.x} ${first.y}`;
  for (let index = 0; index < rest.length - 1; index += 1) {
    const [here, next] = [rest[index], rest[index + 1]];
    const end = index === rest.length - 2 ? next : { x: (here.x + next.x) / 2, y: (here.y + next.y) / 2 };
    path += ` Q${here.x} ${here.y} ${end.x} ${end.y}`;
  }
  return rest.length === 1 ? `${path} L${rest[0].x} ${rest[0].y}` : path;
}
