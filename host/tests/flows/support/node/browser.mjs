// A person with a real browser: Chromium, driven through the keyboard and the mouse, without any script of the page.
// On every page it stops, looks for accessibility faults with axe-core and for text that does not fit a small screen.
//
// Reads one JSON object from standard input and prints one JSON object: what was seen on each page.
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { chromium } from 'playwright-core';

const settings = JSON.parse(readFileSync(0, 'utf8'));
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const pages = [];
const foreign = [];

if (settings.screenshots) mkdirSync(settings.screenshots, { recursive: true });

const browser = await chromium.launch({
  executablePath: settings.chromium,
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});

/** A browser window of its own, with its cookies and its look. */
async function open(look) {
  const context = await browser.newContext(look);
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  page.on('request', (request) => {
    const { origin } = new URL(request.url());
    if (!settings.origins.includes(origin)) foreign.push(request.url());
  });
  page.on('console', (message) => {
    // A page that is answered with 4xx is reported as a resource that failed to load; that is its status, seen below.
    if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) foreign.push(message.text());
  });
  return page;
}

/** Judges the page that is shown. */
async function look(page, name) {
  await page.waitForLoadState();
  // Through the debugger, past the page's own policy; the page itself runs no script.
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const seen = await page.evaluate(() => ({
    heading: document.querySelector('h1')?.textContent ?? '',
    text: document.body.innerText,
    overflows: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    scripts: document.scripts.length,
    focused: document.activeElement?.id || document.activeElement?.tagName,
  }));
  if (settings.screenshots) {
    await page.screenshot({ path: `${settings.screenshots}/${String(pages.length).padStart(2, '0')}-${name}.png`, fullPage: true });
  }
  pages.push({
    name,
    ...seen,
    violations: violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(' ')}`),
  });
}

/** Does something that leads to another page, and waits for that, through however many redirects. */
async function leave(page, act) {
  await Promise.all([page.waitForEvent('load'), act()]);
}

/** The part at the identity provider. */
async function authenticate(page, login) {
  await page.fill('input[name=login]', login);
  await leave(page, () => page.click('button'));
}

const steps = {
  /** Opens the link of the terminal and confirms with the mouse. */
  async confirm(page, { url, login, name = 'confirm', email, choice }) {
    await page.goto(url);
    await look(page, name);
    if (email) await page.fill('input[name=email]', email);
    await leave(page, () => page.click(choice ? `button[value=${choice}]` : 'button:has-text("Yes, sign in")'));
    if (login) {
      await authenticate(page, login);
    }
    await look(page, `${name}-end`);
  },
  /** Types the code and does everything else with the keyboard, too. */
  async type(page, { url, code, login, name = 'type' }) {
    await page.goto(url);
    await look(page, name);
    await page.keyboard.type(code);
    await leave(page, () => page.keyboard.press('Enter'));
    if (login) {
      await page.waitForSelector('input[name=login]');
      await page.focus('input[name=login]');
      await page.keyboard.type(login);
      await leave(page, () => page.keyboard.press('Enter'));
    }
    await look(page, `${name}-end`);
  },
  /** Says no, with the keyboard: the second button. */
  async deny(page, { url, name = 'deny' }) {
    await page.goto(url);
    await page.keyboard.press('Tab');
    await page.keyboard.press('Tab');
    await leave(page, () => page.keyboard.press('Enter'));
    await look(page, name);
  },
  /** Opens an address and looks. */
  async visit(page, { url, name }) {
    await page.goto(url);
    await look(page, name);
  },
};

for (const { step, look: how, ...rest } of settings.steps) {
  const page = await open(how);
  await steps[step](page, rest);
  await page.context().close();
}
await browser.close();
console.log(JSON.stringify({ pages, foreign }));
