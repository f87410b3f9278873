// Requests to the server. An error is thrown with the one line that the server answers.

export const get = (path) => ask(path);
export const post = (path, body, type = "application/octet-stream") =>
  ask(path, { method: "POST", body, headers: { "Content-Type": type } });

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer; is python -m lenet demo still running?");
  }
  const found = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(found.error ?? `The server answered ${response.status}`);
  return found;
}

/** Runs `work` one call at a time; of the calls made during one, only the last is run. */
export function newest(work) {
  let next = null;
  let busy = false;
  return async (...given) => {
    next = given;
    if (busy) return;
    busy = true;
    try {
      while (next) {
        const now = next;
        next = null;
        await work(...now);
      }
    } finally {
      busy = false;
    }
  };
}
