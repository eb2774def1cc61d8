/** The server of this checkout, with the simulator as its upstream: `sim/…`. Needs what `make test` needs. */

import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../../../../", import.meta.url));
const PYTHON = `${ROOT}.venv/bin/python`;

/** A process that says on its first line where it listens. */
export async function listening(command: string, args: readonly string[], env: Record<string, string>) {
  const child = spawn(command, args, {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  for await (const line of createInterface(child.stdout))
    return { child, target: line.replace(/^.*listening on /, "") };
  throw new Error(`${command} ${args.join(" ")} ended without a word`);
}

export async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill();
  await once(child, "exit");
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
      await ended(server.child);
      await ended(simulator.child);
    };
    return { target: server.target, close };
  } catch (error) {
    await ended(simulator.child); // it would keep the tests from ending
    throw error;
  }
}
