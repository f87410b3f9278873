// What the server is asked. Its errors are one line, which is thrown.

export const get = (path) => ask(path);
export const post = (path, body, type = "application/octet-stream") =>
  ask(path, { method: "POST", body, headers: { "Content-Type": type } });

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer; is python -m lenet.demo still running?");
  }
  const found = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(found.error ?? `The server answered ${response.status}`);
  return found;
}

/** Runs `work` one call at a time; of the calls that came meanwhile only the last one counts. */
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
