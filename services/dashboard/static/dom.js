// What every part of the page uses. Posts, names and reasons are hostile text: they only ever reach
// the page through textContent.

export const LABELS = ["negative", "neutral", "positive"];
export const MARKS = { negative: "▼", neutral: "●", positive: "▲" };
export const byId = (id) => document.getElementById(id);
export const count = (n) => n.toLocaleString();
export const score = (s) => (s === null ? "–" : (s >= 0 ? "+" : "−") + Math.abs(s).toFixed(2));
export const clock = (moment) => new Date(moment).toLocaleTimeString();
export const moment = (at) => new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
export const percent = (share) => `${(100 * share).toFixed(1)} %`;
export const milliseconds = (seconds) => (seconds === null ? "–" : `${(1000 * seconds).toFixed(1)} ms`);
export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

export function element(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

export function row(cells) {
  const line = element("tr");
  for (const cell of cells) {
    const box = element("td");
    box.append(cell);
    line.append(box);
  }
  return line;
}

// The JSON of an address; an Error with the server's own sentence when it has none to give.
export async function ask(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Error("the dashboard server is away");
  }
  const kind = answer.headers.get("Content-Type") ?? "";
  const said = kind.includes("json") ? await answer.json() : await answer.text();
  if (!answer.ok) {
    const error = new Error(said.problem ?? `the server answered ${answer.status}`);
    error.status = answer.status;
    throw error;
  }
  return said;
}
