// SPDX-License-Identifier: Apache-2.0
// Shows times in the reader's zone, and keeps the page up to date: when the server says that something of this page has changed, the page
// is fetched again, and what differs is changed in place. Forms, what is open and where the focus is stay as they are.
"use strict";
(() => {
  const main = document.getElementById("main");
  const topics = (main.dataset.live || "").split(" ").filter(Boolean);
  const badge = document.getElementById("live");
  const said = document.getElementById("said");

  const two = (number) => String(number).padStart(2, "0");
  function localize(root) {
    const today = new Date().toDateString();
    for (const time of root.querySelectorAll("time[datetime]")) {
      const date = new Date(time.dateTime);
      if (isNaN(date)) continue;
      const clock = `${two(date.getHours())}:${two(date.getMinutes())}`;
      const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
      time.textContent = date.toDateString() === today ? `today ${clock}` : `${day} ${clock}`;
      time.title = time.dateTime;
    }
  }

  // Makes `old` what `fresh` is, keeping as many nodes as possible. Nodes with the same id are the same.
  function change(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || (old.id || "") !== (fresh.id || "")) {
      old.replaceWith(fresh.cloneNode(true));
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.hasAttribute("data-keep")) return;
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    let at = old.firstChild;
    for (const wanted of fresh.childNodes) {
      const known = wanted.id && [...old.children].find((child) => child.id === wanted.id);
      if (known && known !== at) {
        old.insertBefore(known, at);
        at = known;
      } else if (!known && at && (at.id || wanted.id) && fresh.ownerDocument.getElementById(at.id || wanted.id)) {
        // What stands here stands further on in the new page.
        old.insertBefore(wanted.cloneNode(true), at);
        continue;
      }
      if (!at) {
        old.append(wanted.cloneNode(true));
        continue;
      }
      const next = at.nextSibling;
      change(at, wanted);
      at = next;
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  // States of jobs and machines are said to who cannot see them change; progress is not.
  const states = (root) => new Set([...root.querySelectorAll("[data-say]")].map((element) => element.dataset.say));

  async function refresh() {
    const begun = performance.now();
    const answer = await fetch(location.href, { credentials: "same-origin" });
    if (answer.redirected && new URL(answer.url).pathname === "/login") return show("signed out: sign in again", "/login");
    if (!answer.ok) return show(`not live: the server answers ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("main");
    if (!fresh) return;
    localize(fresh);
    const before = states(main);
    const focus = document.activeElement;
    const log = document.getElementById("log");
    const below = log && log.scrollHeight - log.scrollTop - log.clientHeight < 8;
    change(main, fresh);
    if (focus && focus !== document.activeElement && focus.isConnected) focus.focus({ preventScroll: true });
    const now = document.getElementById("log");
    if (now && below) now.scrollTop = now.scrollHeight;
    const news = [...states(main)].filter((state) => !before.has(state));
    if (news.length) said.textContent = news.slice(0, 3).join("; ");
    took = performance.now() - begun;
  }

  // One fetch at a time, and the longer a page takes, the longer until the next one.
  let took = 0;
  let waiting = false;
  function soon() {
    if (waiting) return;
    waiting = true;
    setTimeout(async () => {
      try {
        await refresh();
      } catch {
        // The stream of events says whether the server is there.
      }
      waiting = false;
    }, Math.max(150, 4 * took));
  }

  function show(text, href) {
    if (!badge) return;
    badge.hidden = false;
    badge.replaceChildren();
    badge.classList.toggle("off", text !== "live");
    if (href) {
      const link = document.createElement("a");
      link.href = href;
      link.textContent = text;
      badge.append(link);
    } else {
      badge.textContent = text;
    }
  }

  let events = null;
  function open() {
    if (events || !topics.length) return;
    let lost = false;
    events = new EventSource("/events");
    events.onopen = () => {
      show("live");
      if (lost) soon();
      lost = false;
    };
    events.onerror = () => {
      lost = true;
      if (events.readyState === EventSource.CLOSED) {
        close();
        soon();
        setTimeout(() => { if (!document.hidden) open(); }, 5000);
      }
      show("not live: no connection");
    };
    events.addEventListener("changed", (event) => {
      const changed = event.data.split(" ");
      if (changed.includes("all") || topics.some((topic) => changed.includes(topic))) soon();
    });
  }
  function close() {
    if (events) events.close();
    events = null;
  }

  localize(document);
  const log = document.getElementById("log");
  if (log) log.scrollTop = log.scrollHeight;
  if (topics.length) {
    open();
    // A page that nobody looks at asks for nothing.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return close();
      open();
      soon();
    });
    window.addEventListener("pagehide", close);
  }
})();
