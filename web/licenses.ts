import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Licences of packages, by their folders in the package lock. */
export function licensesOf(folders: string[]): string {
  const { packages } = JSON.parse(readFileSync("package-lock.json", "utf8"));
  const texts = folders.map((path) => {
    const files = readdirSync(path).filter((name) => /^(licen[cs]e|copying|notice)/i.test(name));
    const { version, license } = packages[path];
    if (!files.length) files.push("package.json"); // names author and licence
    return [`${path.replace(/^.*node_modules\//, "")} ${version} (${license})`, ...files.map((name) => readFileSync(join(path, name), "utf8"))];
  });
  return texts.map((text) => text.join("\n\n")).join("\n\n----\n\n");
}

/** Folders of all packages that are not for development only. */
export function shipped(): string[] {
  const { packages } = JSON.parse(readFileSync("package-lock.json", "utf8"));
  return Object.keys(packages).filter((path) => path && !packages[path].dev);
}
