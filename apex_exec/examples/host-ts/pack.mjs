/** Before `npm pack`: builds both forms, and says in the second folder that its files are CommonJS. */

import { execFileSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";

for (const form of ["esm", "cjs"]) {
  rmSync(`dist/${form}`, { recursive: true, force: true });
  execFileSync("node_modules/.bin/tsc", ["-p", `tsconfig.${form}.json`], { stdio: "inherit" });
}
writeFileSync("dist/cjs/package.json", '{"type": "commonjs"}\n');
