// Many agents: a lane for each number of steps, and in it a chip for each agent.

import { makeBar, setBar, setText } from "./tables.js";
import { byName, plural, scoped, steps } from "./text.js";

const MOST_LANES = 8;
// Of a name in a chip of the least width, in the font of `.chip-name` in style.css. A clip costs the browser time in every frame, so that
// only names that are too long get one.
const MOST_PIXELS = 130;
const pen = document.createElement("canvas").getContext("2d");
pen.font = '12px system-ui, "DejaVu Sans", sans-serif';

export class Lanes {
  constructor(element, onChoose) {
    this.element = element;
    this.chips = new Map();
    this.lanes = new Map();
    this.shown = null;
    element.addEventListener("click", (event) => {
      const chip = event.target.closest(".chip");
      if (chip) onChoose(chip.agent);
    });
  }

  clear() {
    this.chips.clear();
    this.lanes.clear();
    this.element.replaceChildren();
  }

  *render(workflow, selected) {
    if (this.shown !== scoped(workflow) || !this.element.querySelector(".lane")) {
      this.clear();
      this.shown = scoped(workflow);
    }
    const known = new Set(workflow.agents.map((each) => each.agent));
    for (const [name, chip] of this.chips) {
      if (!known.has(name)) {
        chip.remove();
        this.chips.delete(name);
      }
    }
    const near = neighbours(workflow.edges, selected);
    const agents = [...workflow.agents].sort(byName);
    const lanes = byLane(agents);
    this.keepLanes([...lanes.keys()]);
    yield;
    let done = 0;
    for (const [title, members] of lanes) {
      const lane = this.lanes.get(title);
      setText(lane.count, plural(members.length, "agent"));
      let place = lane.chips.firstChild;
      for (const agent of members) {
        const chip = this.chips.get(agent.agent) ?? this.addChip(agent.agent);
        if (chip === place) place = place.nextSibling;
        else lane.chips.insertBefore(chip, place);
        this.fill(chip, agent, selected, near);
        if (done % 30 === 29) yield;
        done += 1;
      }
    }
  }

  keepLanes(titles) {
    for (const [title, lane] of this.lanes) {
      if (!titles.includes(title)) {
        lane.root.remove();
        this.lanes.delete(title);
      }
    }
    titles.forEach((title, index) => {
      if (!this.lanes.has(title)) this.lanes.set(title, makeLane(title));
      const { root } = this.lanes.get(title);
      if (this.element.children[index] !== root) this.element.insertBefore(root, this.element.children[index] ?? null);
    });
  }

  addChip(name) {
    const chip = document.createElement("div");
    chip.agent = name;
    chip.title = name;
    const label = document.createElement("div");
    label.className = pen.measureText(name).width > MOST_PIXELS ? "chip-name long" : "chip-name";
    label.textContent = name;
    chip.append(label, makeBar());
    this.chips.set(name, chip);
    return chip;
  }

  fill(chip, agent, selected, near) {
    const classes = ["chip"];
    if (agent.steps === 0) classes.push("now");
    if (agent.agent === selected) classes.push("selected");
    if (near.before.has(agent.agent)) classes.push("before");
    if (near.after.has(agent.agent)) classes.push("after");
    const shown = classes.join(" ");
    if (chip.className !== shown) chip.className = shown;
    setBar(chip.lastChild, agent.prefix);
  }
}

function makeLane(title) {
  const root = document.createElement("div");
  root.className = "lane";
  root.setAttribute("aria-hidden", "true"); // the table below says the same
  const head = document.createElement("div");
  head.className = "lane-title";
  const name = document.createElement("strong");
  name.textContent = title;
  const counted = document.createElement("span");
  head.append(name, counted);
  const chips = document.createElement("div");
  chips.className = "chips";
  root.append(head, chips);
  return { root, chips, count: counted };
}

// In order of their steps; the furthest share the last lane before those not expected.
function byLane(agents) {
  const counts = [...new Set(agents.map((each) => each.steps).filter((each) => each !== null))].sort((one, other) => one - other);
  const far = counts.length > MOST_LANES ? counts[MOST_LANES - 1] : Infinity;
  const title = (count) => (count !== null && count >= far ? `in ${far} or more` : steps(count));
  const lanes = new Map([...counts, null].map((count) => [title(count), []]));
  for (const agent of agents) lanes.get(title(agent.steps)).push(agent);
  return new Map([...lanes].filter(([, members]) => members.length));
}

export function neighbours(edges, selected) {
  const before = new Set();
  const after = new Set();
  for (const [source, target] of edges) {
    if (source === target) continue;
    if (target === selected) before.add(source);
    if (source === selected) after.add(target);
  }
  return { before, after };
}
