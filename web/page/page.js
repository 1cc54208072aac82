// Draws status.json, once a second. Everything is put in as text: nothing that a target is called can become markup.
'use strict';

const SVG = 'http://www.w3.org/2000/svg';
const charts = new Map();   // target -> the last two minutes of its rate

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function bytes(number) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) { number /= 1024; unit += 1; }
  return `${unit === 0 ? number : number.toFixed(1)} ${units[unit]}`;
}

function span(seconds) {
  const parts = [[86400, 'd'], [3600, 'h'], [60, 'min']];
  for (const [size, name] of parts) if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${name}`;
  return seconds < 1 ? `${(seconds * 1000).toFixed(1)} ms` : `${Math.round(seconds)} s`;
}

const local = (time) => new Date(time).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' });

function facts(pairs) {
  const list = element('dl');
  for (const [name, value] of pairs) {
    if (value === null || value === undefined) continue;
    const pair = element('div');
    pair.append(element('dt', name), element('dd', value));
    list.append(pair);
  }
  return list;
}

function drawRate(name, running) {
  const points = charts.get(name) ?? [];
  charts.set(name, points);
  points.push(running.rate ?? 0);
  if (points.length > 120) points.shift();
  const most = Math.max(...points, 1);
  const svg = shape('svg', { class: 'chart', viewBox: '0 0 119 40', preserveAspectRatio: 'none', role: 'img', 'aria-label': 'rate of the last two minutes' });
  const at = (rate, index) => `${119 - (points.length - 1 - index)},${39 - 38 * rate / most}`;
  svg.append(shape('path', { d: 'M' + points.map(at).join('L') }));
  return svg;
}

function drawRunning(target) {
  const running = target.running;
  const box = element('div', undefined, 'running');
  const bar = element('progress');
  bar.max = Math.max(running.bytes_total, 1);
  bar.value = running.bytes_total - running.bytes_due;
  bar.setAttribute('aria-label', 'in place');
  const micro = (us) => us === null || us === undefined ? null : span(us / 1e6);
  const percent = running.bytes_total ? Math.floor(100 * bar.value / running.bytes_total) : 0;
  box.append(bar, facts([
    ['Phase', running.phase], ['In place', `${percent} % of ${bytes(running.bytes_total)}`],
    ['Due', bytes(running.bytes_due)],
    ['Rate', running.rate === null ? null : `${bytes(running.rate)}/s`],
    ['Held to', running.throttle === null ? null : `${bytes(running.throttle)}/s`],
    ['Left', running.eta_s === null ? null : span(running.eta_s)],
    ['For', span(running.elapsed_ms / 1000)],
    ['Hold', micro(running.hold_us)], ['Longest wait', micro(running.longest_wait_us)],
  ]), drawRate(target.name, running));
  return box;
}

function drawHistory(target, now) {
  const box = element('div');
  const nights = target.history.slice(-60);
  if (nights.length === 0) return box;
  const first = Date.parse(nights[0].begun), whole = Math.max(now - first, 1);
  const svg = shape('svg', { class: 'timeline', viewBox: '0 0 1000 36', preserveAspectRatio: 'none', role: 'img', 'aria-label': 'backups by time' });
  svg.append(shape('line', { x1: 0, x2: 1000, y1: 35, y2: 35 }));
  for (const night of nights) {
    const from = 992 * (Date.parse(night.begun) - first) / whole;
    const wide = Math.max(992 * (Date.parse(night.ended) - Date.parse(night.begun)) / whole, 8);
    const bar = shape('rect', { class: night.good ? 'good' : 'bad', x: from, width: Math.min(wide, 1000 - from), y: night.good ? 4 : 16, height: night.good ? 30 : 18 });
    const title = shape('title', {});
    title.textContent = `${local(night.begun)}: ${night.good ? 'good' : night.message ?? 'failed'}`;
    bar.append(title);
    svg.append(bar);
  }
  const ends = element('div', undefined, 'ends');
  ends.append(element('span', local(nights[0].begun)), element('span', 'now'));
  const table = element('table');
  const head = element('tr');
  for (const name of ['Begun', 'Took', 'Size', 'Hold', 'Outcome']) head.append(element('th', name));
  table.append(head);
  for (const night of nights.toReversed().slice(0, 20)) {
    const row = element('tr'), taken = night.taken;
    row.append(element('td', local(night.begun)), element('td', taken ? span(taken.duration_us / 1e6) : '–'),
      element('td', taken ? bytes(taken.bytes) : '–'), element('td', taken ? span(taken.hold_us / 1e6) : '–'),
      element('td', night.good ? 'good' : night.message ?? 'failed', night.good ? 'good' : 'bad'));
    table.append(row);
  }
  const details = element('details');
  details.open = open.get(target.name) ?? false;
  details.addEventListener('toggle', () => open.set(target.name, details.open));
  details.append(element('summary', `The last ${Math.min(nights.length, 20)}`), table);
  box.append(svg, ends, details);
  return box;
}
const open = new Map();   // target -> whether its list is open

function drawTarget(target, now) {
  const card = element('section'), head = element('div', undefined, 'head');
  const good = target.history.findLast((night) => night.good), last = target.history.at(-1);
  const [state, kind] = target.running ? ['backup running', 'busy']
    : target.process === null ? ['server not running', 'bad']
    : last && !last.good ? ['last backup failed', 'bad']
    : good ? ['good', 'good'] : ['no backup yet', 'bad'];
  head.append(element('h2', target.name), element('span', state, `state ${kind}`));
  card.append(head);
  if (target.running) card.append(drawRunning(target)); else charts.delete(target.name);
  card.append(facts([
    ['Last good backup', good ? `${span((now - Date.parse(good.begun)) / 1000)} ago` : 'none'],
    ['Next', target.next === null ? 'not scheduled'
      : local(target.next) + (target.next_attempt ? `, try ${target.next_attempt}` : '')],
    ['Process', target.process === null ? '–' : String(target.process)],
  ]), drawHistory(target, now));
  return card;
}

async function draw() {
  const when = document.getElementById('when');
  try {
    const answer = await fetch('status.json', { cache: 'no-store', signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const status = await answer.json();
    const now = Date.parse(status.time);
    const cards = status.targets.map((target) => drawTarget(target, now));
    document.getElementById('targets').replaceChildren(...(cards.length ? cards : [element('p', 'No targets are configured.')]));
    when.textContent = `hotbackup ${status.version}, ${local(status.time)}`;
    when.className = '';
    document.body.dataset.drawn = 'yes';
  } catch (error) {
    when.textContent = `The service does not answer (${error.message}); what stands here is old.`;
    when.className = 'lost';
  }
  setTimeout(draw, 1000);
}
draw();
