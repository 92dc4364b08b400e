// SPDX-License-Identifier: Apache-2.0
// What is looked for, as it stands in the address.

const LISTS = ["like", "unlike"];
const TEXTS = ["q", "picture", "under", "caption"];

export const fresh = () => ({
  q: "", picture: "", like: [], unlike: [], under: "", caption: "", page: 1, fold: true,
});

export function read(query) {
  const asked = new URLSearchParams(query);
  const state = fresh();
  for (const name of TEXTS) state[name] = asked.get(name) ?? "";
  for (const name of LISTS) state[name] = asked.getAll(name);
  state.page = Math.max(1, Number.parseInt(asked.get("page"), 10) || 1);
  state.fold = asked.get("fold") !== "off";
  return state;
}

// The same names as the service's; what is as usual is left out.
export function written(state) {
  const asked = new URLSearchParams();
  for (const name of TEXTS) if (state[name]) asked.set(name, state[name]);
  for (const name of LISTS) for (const id of state[name]) asked.append(name, id);
  if (state.page > 1) asked.set("page", state.page);
  if (!state.fold) asked.set("fold", "off");
  return asked.toString();
}

export const asks = (state) =>
  Boolean(state.q.trim() || state.picture || state.like.length || state.unlike.length);
