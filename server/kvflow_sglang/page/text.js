// Figures as people read them.

const counts = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value) => counts.format(value);
export const compact = (value) => short.format(value);
export const share = (part, whole) => (whole > 0 ? `${((100 * part) / whole).toFixed(1)}%` : "–");

export function steps(value) {
  if (value === null) return "not expected";
  if (value === 0) return "now";
  return value === 1 ? "in 1 step" : `in ${counts.format(value)} steps`;
}

export function duration(ms) {
  if (ms === null) return "–";
  if (ms < 1000) return `${ms} ms`;
  if (ms < 120000) return `${(ms / 1000).toFixed(1)} s`;
  return ms < 7200000 ? `${Math.round(ms / 60000)} min` : `${Math.round(ms / 3600000)} h`;
}

// Of a workflow, and with it of its tenant: names of two tenants may be equal. No name holds a NUL.
export const scoped = ({ tenant, workflow }) => (tenant === null ? workflow : `${tenant}\0${workflow}`);
export const unscoped = (name) => {
  const end = name.indexOf("\0");
  return end < 0 ? { tenant: null, workflow: name } : { tenant: name.slice(0, end), workflow: name.slice(end + 1) };
};
export const label = ({ tenant, workflow }) =>
  tenant === null ? workflow : `${workflow} (tenant ${tenant.slice(0, 8)})`;

export const plural = (value, noun) => `${counts.format(value)} ${noun}${value === 1 ? "" : "s"}`;

// In the order in which people count: agent-2 before agent-10.
const { compare } = new Intl.Collator("en", { numeric: true });
export const byName = (one, other) => compare(one.agent, other.agent) || (one.agent < other.agent ? -1 : 1);
