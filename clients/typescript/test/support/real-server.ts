/** The server of this checkout, with the simulator as its upstream: `sim/…`. Needs what `make test` needs. */

import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../../../../", import.meta.url));
const PYTHON = `${ROOT}.venv/bin/python`;
const START_MS = 60_000;
const END_MS = 10_000;

const children = new Set<ChildProcess>();

// The test runner ends a file that takes too long: what was started here must not outlive it, and have it wait for ever.
process.on("exit", () => children.forEach((child) => child.kill("SIGKILL")));
process.once("SIGTERM", () => process.exit(143));

/** A process that says on its first line where it listens. Throws, with what else it said, if it does not in time. */
export async function listening(command: string, args: readonly string[], env: Record<string, string>) {
  const child = spawn(command, args, {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"], // an inherited pipe of the test runner's would stay open as long as the child lives
  });
  children.add(child);
  child.once("exit", () => children.delete(child));
  child.stderr.pipe(process.stderr, { end: false });
  const late = setTimeout(() => child.kill("SIGKILL"), START_MS);
  try {
    for await (const line of createInterface(child.stdout))
      return { child, target: line.replace(/^.*listening on /, "") };
  } finally {
    clearTimeout(late);
  }
  throw new Error(`${command} ${args.join(" ")} ended, or was silent for ${START_MS / 1000} s`);
}

/** Ends a process; throws if it had to be killed. */
export async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, "exit");
  child.kill();
  const late = setTimeout(() => child.kill("SIGKILL"), END_MS);
  await exit;
  clearTimeout(late);
  if (child.signalCode === "SIGKILL")
    throw new Error(`${child.spawnargs.join(" ")} did not end within ${END_MS / 1000} s`);
}

/** Starts both; `close` ends them. */
export async function realServer(): Promise<{ target: string; close: () => Promise<void> }> {
  if (!existsSync(PYTHON)) throw new Error("these tests run the server from .venv, which `make test` makes");
  const simulator = await listening(PYTHON, ["-m", "midstream_simulator", "--port", "0"], {
    PYTHONPATH: `${ROOT}tests`,
  });
  try {
    const server = await listening(PYTHON, ["-m", "midstream_server", "serve"], {
      MIDSTREAM_LISTEN: "127.0.0.1:0",
      MIDSTREAM_STORE: "memory:",
      MIDSTREAM_LOG__LEVEL: "error",
      MIDSTREAM_DRAIN_SECONDS: "1",
      MIDSTREAM_UPSTREAMS__SIM__DIALECT: "openai-chat",
      MIDSTREAM_UPSTREAMS__SIM__BASE_URL: `http://${simulator.target}/v1`,
    });
    const close = async () => {
      await Promise.all([ended(server.child), ended(simulator.child)]);
    };
    return { target: server.target, close };
  } catch (error) {
    await ended(simulator.child); // it would keep the tests from ending
    throw error;
  }
}
