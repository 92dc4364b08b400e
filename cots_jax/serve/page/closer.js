// SPDX-License-Identifier: Apache-2.0
// A closer look at one picture, and on to its neighbours.

import { captionOf, isVideo, shownScore, timeOf } from "./cards.js";
import { pictureAddress, videoAddress } from "./service.js";

const element = (name) => document.getElementById(name);
const dialog = element("closer");
const video = element("closer-video");
let hits = [];
let place = -1; // of the picture shown; -1 for a near-duplicate, which stands in no list
let shown = null;

export function prepareCloser(act) {
  element("closer-close").addEventListener("click", () => dialog.close());
  element("closer-previous").addEventListener("click", () => step(-1));
  element("closer-next").addEventListener("click", () => step(1));
  for (const name of ["like", "unlike"]) {
    element(`closer-${name}`).addEventListener("click", () => {
      dialog.close();
      act[name](shown.id);
    });
  }
  dialog.addEventListener("close", () => play(null));
  video.addEventListener("error", () => {
    if (!video.getAttribute("src")) return; // it was taken away
    [video.hidden, element("closer-picture").hidden] = [true, false];
    element("closer-unplayable").hidden = false;
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.target === video) return; // whose arrows go forth and back in it
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else return;
    event.preventDefault();
  });
}

export function look(hit, among) {
  hits = among;
  show(hit);
  if (!dialog.open) dialog.showModal();
  element("closer-like").focus();
}

function step(by) {
  if (place >= 0 && hits[place + by]) show(hits[place + by]);
}

function show(hit) {
  shown = hit;
  place = hits.indexOf(hit);
  const caption = captionOf(hit);
  const image = element("closer-picture");
  image.src = pictureAddress(hit.id, "large");
  image.alt = caption;
  image.hidden = isVideo(hit);
  play(isVideo(hit) ? hit : null);
  element("closer-time-row").hidden = !isVideo(hit);
  element("closer-time").textContent = isVideo(hit) ? timeOf(hit) : "";
  element("closer-caption").textContent = caption;
  element("closer-captions").replaceChildren(...hit.captions.slice(1).map(item));
  element("closer-captions").hidden = hit.captions.length < 2;
  element("closer-score-row").hidden = hit.score === null;
  element("closer-score").textContent = hit.score === null ? "" : shownScore(hit.score);
  element("closer-name").textContent = hit.name;
  element("closer-alike").hidden = !hit.alike.length;
  element("closer-alike").querySelector("ul").replaceChildren(...hit.alike.map(thumbnail));
  element("closer-previous").disabled = place <= 0;
  element("closer-next").disabled = place < 0 || place + 1 >= hits.length;
}

// Opens a video at its piece, and stops the one before.
function play(hit) {
  element("closer-unplayable").hidden = true;
  video.hidden = !hit;
  if (hit) {
    video.poster = pictureAddress(hit.id, "large");
    video.src = `${videoAddress(hit.id)}#t=${hit.start}`;
    video.setAttribute("aria-label", `${captionOf(hit)} from ${timeOf(hit)}`);
  } else if (video.getAttribute("src")) {
    video.removeAttribute("src");
    video.removeAttribute("poster");
    video.load();
  }
}

function item(text) {
  const line = document.createElement("li");
  line.dir = "auto";
  line.textContent = text;
  return line;
}

function thumbnail(hit) {
  const line = document.createElement("li");
  const button = document.createElement("button");
  const image = document.createElement("img");
  button.type = "button";
  button.title = captionOf(hit);
  image.src = pictureAddress(hit.id, "small");
  image.alt = captionOf(hit);
  button.append(image);
  button.addEventListener("click", () => show(hit));
  line.append(button);
  return line;
}
