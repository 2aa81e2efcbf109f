/** Start `sar2optical view` without a browser. */

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

const root = new URL("../../../", import.meta.url).pathname;

/** Returns the page's address, the process, and a function that ends it as Ctrl-C does, and returns its exit code. */
export async function view(files) {
  const python = process.env.PYTHON ?? `${root}.venv/bin/python`;
  const command = spawn(python, ["-m", "sar2optical", "view", ...files, "--no-browser"], {
    env: { ...process.env, PYTHONPATH: root, PYTHONUNBUFFERED: "1" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = new Promise((resolve) => command.on("exit", resolve));
  const first = new Promise((resolve) => createInterface(command.stdout).once("line", resolve));
  const address = await Promise.race([first, ended.then((code) => Promise.reject(new Error(`view: exit code ${code}`)))]);
  return { address, process: command, stop: () => (command.kill("SIGINT"), ended) };
}
