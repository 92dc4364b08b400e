// SPDX-License-Identifier: Apache-2.0
// Pictures from the user: dropped, pasted or chosen. A small copy stays with this tab, so that the
// question shows it after a reload; the address has the vector only.

const SIDE = 96; // pixels of the small copy
const KEY = (vector) => `picture ${vector.slice(0, 32)}`;

export function watch(take) {
  const veil = document.getElementById("drop");
  const input = document.getElementById("file");
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  input.addEventListener("change", () => {
    if (input.files[0]) take(input.files[0]);
    input.value = "";
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    take(file);
  });
  document.addEventListener("dragenter", (event) => (veil.hidden = !hasFile(event)));
  document.addEventListener("dragover", (event) => hasFile(event) && event.preventDefault());
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) veil.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    veil.hidden = true;
    if (!hasFile(event)) return;
    event.preventDefault();
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}

export async function keepCopy(vector, file) {
  try {
    const picture = await createImageBitmap(file);
    const scale = Math.min(1, SIDE / Math.max(picture.width, picture.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(picture.width * scale));
    canvas.height = Math.max(1, Math.round(picture.height * scale));
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    sessionStorage.setItem(KEY(vector), canvas.toDataURL("image/webp", 0.8));
  } catch {
    // a picture that this browser does not read, or a full storage: the question works without
  }
}

export const copyOf = (vector) => sessionStorage.getItem(KEY(vector));
