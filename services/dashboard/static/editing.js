// Who changes things. The name is asked for once and kept by the browser; a token lasts as long as
// the tab.

import { ask, byId } from "./dom.js";

// open, token or closed: how this browser comes to write.
export let writing = "closed";
export let role = null;

export async function learn() {
  const me = await ask("/api/me");
  ({ writing, role } = me);
  if (me.user) localStorage.setItem("moodstream.name", me.user);
  showName();
}

export function who() {
  const name = localStorage.getItem("moodstream.name");
  const token = sessionStorage.getItem("moodstream.token");
  return name && (writing !== "token" || token) ? { name, token } : null;
}

export function askWho() {
  const dialog = byId("who");
  byId("name").value = localStorage.getItem("moodstream.name") ?? "";
  byId("token-label").hidden = writing !== "token";
  byId("token").required = writing === "token";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const name = byId("name").value.trim();
      if (dialog.returnValue !== "ok" || !name) return resolve(null);
      localStorage.setItem("moodstream.name", name);
      if (byId("token").value) sessionStorage.setItem("moodstream.token", byId("token").value);
      byId("token").value = "";
      showName();
      resolve(who());
    }, { once: true });
  });
}

function showName() {
  byId("rename").hidden = writing === "closed" || !localStorage.getItem("moodstream.name");
}

// Sends a change under the user's name, which `body` gets; null when the user would not say it.
export async function change(address, method, body, type = "application/json") {
  const me = who() ?? await askWho();
  if (!me) return null;
  const content = typeof body === "function" ? body(me.name) : body;
  const headers = content === undefined ? {} : { "Content-Type": type };
  if (me.token) headers.Authorization = `Bearer ${me.token}`;
  const sent = type === "application/json" && content !== undefined ? JSON.stringify(content) : content;
  try {
    return { said: await ask(address, { method, headers, body: sent }), name: me.name };
  } catch (problem) {
    if (problem.status === 401) sessionStorage.removeItem("moodstream.token");
    throw problem;
  }
}

byId("rename").addEventListener("click", askWho);
