// SPDX-License-Identifier: Apache-2.0
// Pictures as a grid, with one place in the order of tabs: arrows go on from there.

import { pictureAddress } from "./service.js";

const template = document.getElementById("card");

export const isVideo = (hit) => hit.start !== null;
export const captionOf = (hit) => hit.captions[0] ?? hit.name.split("/").at(-1);
export const shownScore = (score) => score.toFixed(3);

// Minutes and seconds, with hours where there are any.
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const pad = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return `${hours ? `${hours}:${pad(minutes)}` : minutes}:${pad(whole % 60)}`;
}

export const timeOf = (hit) => `${clock(hit.start)} – ${clock(hit.end)}`;

// What a card is called where it cannot be seen: pieces of one video have one name.
const calledOf = (hit) => (isVideo(hit) ? `${captionOf(hit)}, ${timeOf(hit)}` : captionOf(hit));

// `best` is the highest score of the page; bars are drawn against it.
export function makeCard(hit, best, act) {
  const card = template.content.firstElementChild.cloneNode(true);
  const find = (name) => card.querySelector(`.${name}`);
  const caption = captionOf(hit);
  const image = card.querySelector("img");
  image.addEventListener("error", () => find("picture").classList.add("gone"));
  image.src = pictureAddress(hit.id, "small");
  find("caption").textContent = caption;
  if (isVideo(hit)) find("time").textContent = timeOf(hit);
  find("open").title = hit.name;
  if (hit.score === null) {
    find("score").remove();
  } else {
    find("number").textContent = shownScore(hit.score);
    const share = best > 0 ? Math.max(0, hit.score / best) : 0;
    find("bar").firstElementChild.style.width = `${Math.round(100 * share)}%`;
  }
  if (hit.stands_out) card.classList.add("out");
  if (hit.alike.length) {
    card.classList.add("stack");
    find("badge").textContent = `+${hit.alike.length} alike`;
  }
  find("like").setAttribute("aria-label", `More like ${calledOf(hit)}`);
  find("unlike").setAttribute("aria-label", `Not like ${calledOf(hit)}`);
  find("open").addEventListener("click", () => act.open(hit));
  find("like").addEventListener("click", () => act.like(hit.id));
  find("unlike").addEventListener("click", () => act.unlike(hit.id));
  card.addEventListener("focusin", () => takeTab(card));
  card.addEventListener("keydown", (event) => {
    if (event.key === "+") act.like(hit.id);
    else if (event.key === "-") act.unlike(hit.id);
    else return;
    event.preventDefault();
  });
  return card;
}

export const allCards = () => [...document.querySelectorAll(".card")];

export const focusCard = (card) => card?.querySelector(".open").focus();

// Only one card takes part in the order of tabs, with its own buttons.
export function takeTab(taking) {
  for (const card of allCards()) {
    for (const button of card.querySelectorAll("button")) button.tabIndex = card === taking ? 0 : -1;
  }
}

// The card that an arrow leads to, by what is seen: columns differ by width.
export function neighbour(card, key) {
  const cards = allCards();
  const place = cards.indexOf(card);
  if (key === "ArrowLeft") return cards[place - 1];
  if (key === "ArrowRight") return cards[place + 1];
  if (key === "Home") return cards[0];
  if (key === "End") return cards.at(-1);
  const here = card.getBoundingClientRect();
  const below = key === "ArrowDown";
  let nearest = null;
  let least = Infinity;
  for (const other of cards) {
    const there = other.getBoundingClientRect();
    const rows = below ? there.top - here.top : here.top - there.top;
    const away = rows * 4 + Math.abs(there.left - here.left);
    if (rows > 8 && away < least) [nearest, least] = [other, away];
  }
  return nearest;
}
