// SPDX-License-Identifier: Apache-2.0
// The service's answers.

const PATIENCE = 3; // times that a busy service is asked

export const pictureAddress = (id, size) => `/api/pictures/${id}?size=${size}`;
export const videoAddress = (id) => `/api/videos/${id}`;

export async function ask(path, options = {}) {
  for (let times = 1; ; times += 1) {
    const response = await fetch(path, options);
    if (response.ok) return response.json();
    const after = Number(response.headers.get("retry-after"));
    if (!after || times === PATIENCE) throw new Error(await reason(response));
    await new Promise((done) => setTimeout(done, 1000 * after));
    options.signal?.throwIfAborted();
  }
}

// A picture's bytes to the vector that a search takes.
export async function vectorOf(file) {
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  const options = { method: "POST", body: file, headers: { "content-type": type } };
  return (await ask("/api/vectors", options)).vector;
}

async function reason(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `the service answered with status ${response.status}`;
  }
}
