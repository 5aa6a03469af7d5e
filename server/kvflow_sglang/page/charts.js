// Two charts over time: who holds the pool, stacked; what was found, against LRU and MIN.

import { Series } from "./series.js";
import { compact, count, label, share } from "./text.js";
import { Table, setText } from "./tables.js";

const MOST_OWNERS = 6;
const REST = "other workflows";
const SHARED = "shared or unhinted";
const RUNNING = "running requests";
const FREE = "free";
const HEIGHT = 200;

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Chart {
  constructor(element) {
    this.element = element;
    this.plot = null;
    this.shape = "";
    new ResizeObserver(() => this.fit()).observe(element);
  }

  fit() {
    const width = this.element.clientWidth;
    if (this.plot && width && Math.abs(width - this.plot.width) > 1) {
      this.plot.setSize({ width, height: HEIGHT });
    }
  }

  // Draws columns; makes the plot anew where `shape` differs from the last one.
  draw(shape, columns, options) {
    if (shape !== this.shape || !this.plot) {
      this.plot?.destroy();
      this.shape = shape;
      this.plot = new uPlot(this.options(options()), columns, this.element);
    } else {
      this.plot.setData(columns);
    }
  }

  options({ series, range, values }) {
    const axis = {
      stroke: style("--soft"),
      grid: { stroke: style("--line"), width: 1 },
      ticks: { stroke: style("--line") },
      font: "11px system-ui, sans-serif",
    };
    return {
      width: Math.max(100, this.element.clientWidth),
      height: HEIGHT,
      legend: { show: false },
      cursor: { show: false },
      scales: { y: { range } },
      series: [{}, ...series],
      axes: [axis, { ...axis, size: 52, values: (_, ticks) => ticks.map(values) }],
    };
  }
}

const dark = matchMedia("(prefers-color-scheme: dark)");

export class PoolPanel {
  constructor() {
    this.series = new Series();
    this.chart = new Chart(document.getElementById("pool-chart"));
    this.colors = new Map();
    this.table = new Table(document.getElementById("pool-table"), [
      { text: (row) => row.name, swatch: true },
      { text: (row) => count(row.tokens), number: true },
      { text: (row) => share(row.tokens, row.whole), number: true },
    ]);
  }

  push(time_s, pool) {
    this.series.push(time_s, pool);
  }

  gap(time_s) {
    this.series.push(time_s, null);
  }

  *render() {
    const tier = document.querySelector('input[name="tier"]:checked').value;
    const by = document.querySelector('input[name="by"]:checked').value;
    const pools = this.series.samples;
    const last = pools.findLast((each) => each !== null);
    if (!last) return;
    const names = by === "standing" ? ["expected", "ordinary", "spent"] : this.owners(pools, tier);
    const holders = [...names, ...(by === "owner" ? [REST, SHARED] : []), RUNNING];
    const rows = pools.map((pool) => (pool === null ? null : held(pool, tier, by, names)));
    yield;
    const whole = last[tier].tokens;
    const stacked = stack(rows, holders.length);
    // Colours, not names: workflows that come and go leave the plot as it is.
    const slots = holders.map((name) => this.colors.get(name) ?? name);
    const shape = [tier, by, whole, dark.matches, ...slots].join("\n");
    this.chart.draw(shape, [this.series.times, ...stacked], () => ({
      series: holders.map((name) => ({ fill: this.color(name, by), stroke: this.color(name, by), width: 0.5, points: { show: false } })).reverse(),
      range: () => [0, Math.max(1, whole)],
      values: compact,
    }));
    yield;
    const now = rows[rows.length - 1] ?? held(last, tier, by, names);
    const list = holders.map((name, index) => ({ name, tokens: now[index], whole }));
    list.push({ name: FREE, tokens: last[tier].free, whole });
    yield* this.table.render(list, { name: (row) => row.name, color: (row) => this.color(row.name, by) });
  }

  // Those who hold most now, then those who once held most of what is drawn; each with a colour that
  // it keeps as long as it is among them.
  owners(pools, tier) {
    const last = pools.findLast((each) => each !== null);
    const names = largest(last.owners, tier).slice(0, MOST_OWNERS).map(label);
    if (names.length < MOST_OWNERS) {
      for (const name of formerly(pools, tier)) {
        if (names.length < MOST_OWNERS && !names.includes(name)) names.push(name);
      }
    }
    for (const name of this.colors.keys()) if (!names.includes(name)) this.colors.delete(name);
    for (const name of names) {
      if (this.colors.has(name)) continue;
      const taken = new Set(this.colors.values());
      let slot = 1;
      while (taken.has(slot)) slot += 1;
      this.colors.set(name, slot);
    }
    return names.sort((one, other) => this.colors.get(one) - this.colors.get(other));
  }

  color(name, by) {
    if (by === "standing" || !this.colors.has(name)) {
      const fixed = { expected: "--owner-1", ordinary: "--owner-2", spent: "--rest", [REST]: "--rest", [SHARED]: "--shared", [RUNNING]: "--loading", [FREE]: "--free" };
      return style(fixed[name] ?? "--rest");
    }
    return style(`--owner-${this.colors.get(name)}`);
  }
}

const largest = (owners, tier) => owners.filter((each) => each[tier] > 0).sort((one, other) => other[tier] - one[tier]);

// All who have held something, by the most that each held at a time.
function formerly(pools, tier) {
  const most = new Map();
  for (const pool of pools) {
    for (const each of pool?.owners ?? []) {
      const name = label(each);
      if (each[tier] > (most.get(name) ?? 0)) most.set(name, each[tier]);
    }
  }
  return [...most].sort((one, other) => other[1] - one[1]).map(([name]) => name);
}

function held(pool, tier, by, names) {
  const tokens = pool[tier];
  const all = tokens.expected + tokens.ordinary + tokens.spent;
  const running = Math.max(0, tokens.tokens - tokens.free - all);
  if (by === "standing") return [...names.map((name) => tokens[name]), running];
  const of = new Map(pool.owners.map((each) => [label(each), each[tier]]));
  const own = names.map((name) => of.get(name) ?? 0);
  const rest = all - pool.shared[tier] - own.reduce((sum, each) => sum + each, 0);
  return [...own, Math.max(0, rest), pool.shared[tier], running];
}

// Sums from the first holder on; the highest is drawn first, and the others over it.
function stack(rows, holders) {
  const columns = Array.from({ length: holders }, () => new Array(rows.length).fill(null));
  rows.forEach((row, time) => {
    if (row === null) return;
    let sum = 0;
    row.forEach((tokens, holder) => {
      sum += tokens;
      columns[holder][time] = sum;
    });
  });
  return columns.reverse();
}

const KINDS = [
  { key: "cached", name: "this cache", color: "--device", dash: [] },
  { key: "lru", name: "LRU, at most", color: "--host", dash: [6, 3] },
  { key: "optimum", name: "MIN, the optimum", color: "--now", dash: [2, 2] },
];

export class OptimumPanel {
  constructor() {
    this.series = new Series();
    this.last = null;
    this.chart = new Chart(document.getElementById("optimum-chart"));
    this.note = document.getElementById("optimum-note");
    this.table = new Table(document.getElementById("optimum-table"), [
      { text: (row) => row.name, swatch: true },
      { text: (row) => row.found, number: true },
    ]);
  }

  push(time_s, optimum) {
    this.last = optimum;
    this.series.push(time_s, optimum);
  }

  gap(time_s) {
    this.series.push(time_s, null);
  }

  *render() {
    const last = this.last;
    if (!last || !last.requests) {
      setText(this.note, "Nothing to compare yet: no prompts were seen.");
      yield* this.table.render([], { name: (row) => row.name });
      return;
    }
    const sampled = last.rate < 1 ? `, ${(100 * last.rate).toFixed(1)}% of their blocks` : "";
    setText(this.note, `The last ${count(last.requests)} prompts${sampled}: ${reached(last)}.`);
    const columns = KINDS.map(({ key }) => this.series.samples.map((each) => (each?.blocks ? (100 * each[key]) / each.blocks : null)));
    this.chart.draw(`${dark.matches}`, [this.series.times, ...columns], () => ({
      series: KINDS.map(({ color, dash }) => ({ stroke: style(color), dash, width: 2, points: { show: false } })),
      range: () => [0, 100],
      values: (tick) => `${tick}%`,
    }));
    yield;
    const most = { optimum: last.optimum_at_most };
    const rows = KINDS.map(({ key, name, color }) => ({ name, color, found: shares(last[key], most[key] ?? last[key], last.blocks) }));
    yield* this.table.render(rows, { name: (row) => row.name, color: (row) => style(row.color) });
  }
}

const either = (least, most) => (least === most ? most : `${least} to ${most}`);
const shares = (least, most, whole) => either(share(least, whole), share(most, whole));

// MIN is known to have found so much, and at most some more: of what was used long ago nobody knows.
function reached({ cached, optimum, optimum_at_most }) {
  if (!optimum_at_most) return "nothing could have been found";
  if (!optimum) return "what MIN would have found cannot be told, for prompts come back after too long";
  const [least, most] = [share(cached, optimum_at_most), share(cached, optimum)];
  return `${either(least, most)} of what MIN would have found`;
}

export const onScheme = (redraw) => dark.addEventListener("change", redraw);
