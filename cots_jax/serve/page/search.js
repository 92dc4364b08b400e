// SPDX-License-Identifier: Apache-2.0
// The page: asks while you type, shows the answer, and keeps the whole question in the address.

import { allCards, captionOf, focusCard, makeCard, neighbour, takeTab } from "./cards.js";
import { look, prepareCloser } from "./closer.js";
import { copyOf, keepCopy, watch } from "./sent.js";
import { ask, pictureAddress, vectorOf } from "./service.js";
import { asks, fresh, read, written } from "./state.js";

const PAUSE = 120; // ms without a key, after which is asked
const element = (name) => document.getElementById(name);
const numbers = new Intl.NumberFormat("en");
let state = read(location.search);
let asking = new AbortController();
let pausing = 0;
let hits = [];

const act = {
  open: (hit) => look(hit, hits),
  like: (id) => mark("like", "unlike", id),
  unlike: (id) => mark("unlike", "like", id),
};

function mark(side, other, id) {
  const without = (ids) => ids.filter((one) => one !== id);
  change({ [side]: [...without(state[side]), id], [other]: without(state[other]) });
}

// A step that the browser's back button undoes; typing is none.
function change(changes, step = true) {
  clearTimeout(pausing);
  state = { ...state, page: 1, ...changes };
  const query = written(state);
  const address = query ? `/?${query}` : "/";
  if (step && address !== location.pathname + location.search) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  if (step) scrollTo({ top: 0 });
  show();
  return search();
}

async function search() {
  asking.abort();
  asking = new AbortController();
  const mine = asking;
  document.body.classList.add("busy");
  try {
    const started = performance.now();
    const answer = await ask(`/api/search?${written(state)}`, { signal: mine.signal });
    fill(answer, performance.now() - started);
  } catch (error) {
    if (mine.signal.aborted) return;
    say(error.message);
  }
  document.body.classList.remove("busy");
}

function fill(answer, milliseconds) {
  const held = document.activeElement?.closest(".card");
  say("");
  hits = answer.hits;
  const best = Math.max(0, ...hits.map((hit) => hit.score ?? 0));
  const cards = hits.map((hit) => makeCard(hit, best, act));
  const after = hits.findIndex((hit) => !hit.stands_out);
  if (after > 0) cards[after].classList.add("first-after");
  element("grid").replaceChildren(...cards);
  takeTab(allCards()[0]);
  if (held) focusCard(allCards()[0]);
  const asked = asks(state);
  element("examples").hidden = asked || element("examples").childElementCount < 2;
  fillParts(answer.asked);
  fillPages(answer);
  fillStatus(answer, milliseconds);
  if (!hits.length) say("No picture passes these filters.", true);
  document.title = state.q ? `${state.q} – Picture search` : "Picture search";
}

function fillStatus({ pictures, standing_out: out }, milliseconds) {
  const of = `${numbers.format(pictures)} ${pictures === 1 ? "picture" : "pictures"}`;
  const words = asks(state) ? [`of ${of}`, `${Math.round(milliseconds)} ms`] : [of];
  const status = element("status");
  status.textContent = words.join(" · ");
  if (!out) return;
  const found = document.createElement("b");
  found.textContent = `${numbers.format(out)} ${out === 1 ? "stands" : "stand"} out`;
  status.prepend(found, " ");
}

function fillParts(parts) {
  const texts = parts.filter((part) => part.kind === "text");
  element("understood").textContent = texts.length > 1 ? `Looked for ${inWords(texts)}` : "";
  const chips = [];
  for (const part of parts) {
    if (part.kind === "picture") {
      chips.push(chip("your picture", copyOf(state.picture), () => change({ picture: "" })));
    } else if (part.picture) {
      const { id } = part.picture;
      const words = `${part.kind === "like" ? "like" : "not like"} ${captionOf(part.picture)}`;
      const without = { [part.kind]: state[part.kind].filter((one) => one !== id) };
      chips.push(chip(words, pictureAddress(id, "small"), () => change(without)));
    }
  }
  element("parts").replaceChildren(...chips);
}

function inWords(texts) {
  const said = texts.map(({ weight, text }) => {
    const times = Math.abs(weight) === 1 ? "" : `${Math.abs(weight)} × `;
    return `${weight < 0 ? "−" : "+"} ${times}“${text}”`;
  });
  return said.join(" ").replace(/^\+ /, "");
}

function chip(words, picture, remove) {
  const made = element("chip").content.firstElementChild.cloneNode(true);
  const image = made.querySelector("img");
  if (picture) [image.src, image.hidden] = [picture, false];
  made.querySelector("span").textContent = words;
  const button = made.querySelector("button");
  button.setAttribute("aria-label", `Remove: ${words}`);
  button.addEventListener("click", () => {
    element("q").focus();
    remove();
  });
  return made;
}

function fillPages(answer) {
  element("pages").hidden = answer.page === 1 && !answer.more;
  element("previous").disabled = answer.page === 1;
  element("next").disabled = !answer.more;
  element("page").textContent = `Page ${answer.page}`;
}

function turn(by) {
  if (element("pages").hidden || element(by < 0 ? "previous" : "next").disabled) return;
  change({ page: state.page + by }).then(() => focusCard(allCards()[0]));
}

// What the state says, in the fields; the answer comes later.
function show() {
  if (element("q").value.trim() !== state.q) element("q").value = state.q;
  element("under").value = state.under;
  if (document.activeElement !== element("under-text")) element("under-text").value = state.under;
  if (document.activeElement !== element("caption")) element("caption").value = state.caption;
  element("fold").checked = state.fold;
}

function say(words, calm = false) {
  element("message").hidden = !words;
  element("message").textContent = words;
  element("message").classList.toggle("calm", calm);
}

async function take(file) {
  say("Looking at your picture …", true);
  try {
    const vector = await vectorOf(file);
    await keepCopy(vector, file);
    change({ picture: vector });
  } catch (error) {
    say(error.message);
  }
}

function typed(name, field) {
  field.addEventListener("input", () => {
    clearTimeout(pausing);
    pausing = setTimeout(() => change({ [name]: field.value.trim() }, false), PAUSE);
  });
  field.addEventListener("change", () => {
    if (field.value.trim() !== state[name]) change({ [name]: field.value.trim() });
  });
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const { target, key } = event;
  const card = target.closest?.(".card");
  const writing = target.matches?.("input:not([type=checkbox], [type=file]), select");
  if (target === element("q") && key === "ArrowDown") focusCard(allCards()[0]);
  else if (target === element("q") && key === "Escape") change(fresh());
  else if (writing) return;
  else if (key === "/") element("q").select();
  else if (key === "?") element("help").showModal();
  else if (key === "[") turn(-1);
  else if (key === "]") turn(1);
  else if (key === "Escape") element("q").focus();
  else if (card && /^(Arrow|Home|End)/.test(key)) {
    const next = neighbour(card, key);
    if (!next && key !== "ArrowUp") return;
    if (next) focusCard(next);
    else element("q").focus();
  } else return;
  event.preventDefault();
}

async function begin() {
  const { captions, folders, examples } = await ask("/api/collection");
  element("caption-label").hidden = !captions;
  const named = Object.keys(folders);
  element("under-label").hidden = !named.length;
  element("under-text-label").hidden = Boolean(named.length);
  const option = (name) => new Option(`${name} (${numbers.format(folders[name])})`, name);
  element("under").replaceChildren(new Option("all", ""), ...named.map(option));
  for (const example of examples) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = example;
    button.addEventListener("click", () => change({ q: example }));
    element("examples").append(button);
  }
  element("examples").hidden = asks(state) || !examples.length;
  show();
}

const wide = matchMedia("(min-width: 641px)");
const unfold = () => (element("filters").open = wide.matches);
wide.addEventListener("change", unfold);
unfold();
prepareCloser(act);
watch(take);
typed("q", element("q"));
typed("caption", element("caption"));
typed("under", element("under-text"));
element("under").addEventListener("change", () => change({ under: element("under").value }));
element("fold").addEventListener("change", () => change({ fold: element("fold").checked }));
element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  change({ q: element("q").value.trim() }).then(() => focusCard(allCards()[0]));
});
element("q").addEventListener("search", () => {
  if (!element("q").value && state.q) change({ q: "" }); // the field's own cross
});
element("home").addEventListener("click", (event) => {
  event.preventDefault();
  change(fresh());
});
element("previous").addEventListener("click", () => turn(-1));
element("next").addEventListener("click", () => turn(1));
element("help-open").addEventListener("click", () => element("help").showModal());
element("help-close").addEventListener("click", () => element("help").close());
document.addEventListener("keydown", keys);
addEventListener("popstate", () => {
  state = read(location.search);
  show();
  search();
});
show();
begin().catch((error) => say(error.message));
search();
