// SPDX-License-Identifier: Apache-2.0
// Looks at the pages in headless Chromium: node browser.mjs URL TOKEN MODULES SHOTS
// MODULES is a folder with playwright-core and axe-core; SHOTS, where given, gets screenshots. The last line is what failed, or "ok".
import { createRequire } from "node:module";
import { readFileSync, mkdirSync } from "node:fs";

const [url, token, modules, shots] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
if (shots) mkdirSync(shots, { recursive: true });

const failures = [];
const check = (right, words) => { if (!right) failures.push(words); };
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const pages = [
  ["machines", "/"], ["machine", "/machines/1"], ["hostile", "/machines/2"], ["booting", "/machines/4"], ["jobs", "/jobs"],
  ["job", "/jobs/7"], ["refused", "/jobs/6"], ["done", "/jobs/5"], ["images", "/images"], ["restore", "/machines/1/restore"],
  ["review", "/machines/1/restore?review=1&image=web01&disk=only&profile=auto"],
  ["wipe", "/machines/2/wipe?review=1&disk=serial%3DWD-1"], ["new", "/jobs/new"],
];
const widths = [1280, 400];
let state;
for (const scheme of ["light", "dark"]) {
  for (const width of widths) {
    const context = await browser.newContext({ viewport: { width, height: 860 }, colorScheme: scheme, bypassCSP: false, storageState: state });
    const page = await context.newPage();
    page.setDefaultTimeout(20000);
    page.on("console", (message) => { if (message.type() === "error") failures.push(`console: ${message.text()}`); });
    page.on("pageerror", (error) => failures.push(`script: ${error.message}`));
    page.on("dialog", (dialog) => { failures.push("a dialog: markup came through"); dialog.dismiss(); });
    if (!state) {
      await page.goto(`${url}/login`);
      if (shots) await page.screenshot({ path: `${shots}/login-${width}-${scheme}.png` });
      await page.getByLabel("Admin token").fill(token);
      await page.keyboard.press("Enter");
      await page.waitForURL(`${url}/`);
      state = await context.storageState();
    }
    for (const [name, path] of pages) {
      await page.goto(url + path);
      if (shots) await page.screenshot({ path: `${shots}/${name}-${width}-${scheme}.png`, fullPage: true });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      check(wide <= 0, `${name} at ${width} is ${wide} pixels too wide`);
      // Evaluated by the debugger: the page's own policy stays.
      await page.evaluate(axe);
      const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
      for (const { id, nodes } of found.violations) failures.push(`${name} at ${width}, ${scheme}: ${id}: ${nodes[0].html.slice(0, 160)}`);
    }
    await context.close();
  }
}

// Live: the focus stays where it is while the page changes, and what happened is said.
const context = await browser.newContext({ storageState: state });
const [page, other] = [await context.newPage(), await context.newPage()];
await page.goto(`${url}/`);
await page.locator("#live", { hasText: "live" }).waitFor();
await page.getByRole("link", { name: "mail" }).focus();
await other.goto(`${url}/machines/2`);
await other.getByLabel("Code on its console").fill("k7qm 2xpa");
await other.getByRole("button", { name: "Approve" }).click();
await page.locator("#m-2", { hasText: "approved" }).waitFor();
check(await page.evaluate(() => document.activeElement.textContent === "mail"), "the focus was lost");

// Without the script all is there.
const plain = await (await browser.newContext({ storageState: state, javaScriptEnabled: false })).newPage();
await plain.goto(`${url}/machines/1`);
await plain.getByRole("link", { name: "Capture…" }).click();
await plain.getByRole("button", { name: "Look it over" }).click();
await plain.getByRole("button", { name: "Capture" }).click();
check(/\/jobs\/\d+$/.test(plain.url()), `a capture leads to ${plain.url()}`);
await browser.close();
console.log(failures.length ? [...new Set(failures)].join("\n") : "ok");
process.exit(failures.length ? 1 : 0);
