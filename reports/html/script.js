'use strict';
// Everything works without this: it lays the grid out anew, and keeps all cells
// but one folded away.
(() => {
  const form = document.getElementById('filters');
  const holder = document.getElementById('table');
  const shown = document.getElementById('shown');
  const links = [...holder.querySelectorAll('a[data-place]')].sort((a, b) => a.dataset.place - b.dataset.place);
  const axes = [...form.elements.columns.options].map((o) => o.value);
  const titles = Object.fromEntries([...form.elements.rows.options].map((o) => [o.value, o.text]));
  const of = (a, key) => a.dataset[key];
  const several = axes.filter((key) => new Set(links.map((a) => of(a, key))).size > 1);
  // An axis that another one decides tells nothing beside it.
  const decides = (by, key) => new Set(links.map((a) => of(a, by) + '\n' + of(a, key))).size === new Set(links.map((a) => of(a, by))).size;
  const defaults = { rows: form.elements.rows.value, columns: form.elements.columns.value };

  const make = (name, text, attributes) => {
    const e = document.createElement(name);
    if (text !== undefined) e.textContent = text;
    for (const [k, v] of Object.entries(attributes || {})) e.setAttribute(k, v);
    return e;
  };
  const fields = () => [...form.elements].filter((e) => e.name);
  const verdicts = () => fields().filter((e) => e.name === 'verdict' && e.checked).map((e) => e.value);

  function read() {
    const from = new URLSearchParams(location.search);
    for (const e of fields()) {
      if (e.type === 'checkbox') e.checked = from.getAll(e.name).includes(e.value);
      else if (e.tagName === 'SELECT') {
        const want = from.get(e.name);
        e.value = want !== null && [...e.options].some((o) => o.value === want) ? want : defaults[e.name] || '';
      } else e.value = from.get(e.name) || '';
    }
  }

  function write() {
    const to = new URLSearchParams();
    for (const e of fields()) {
      if (e.type === 'checkbox' ? e.checked : e.value && e.value !== defaults[e.name]) to.append(e.name, e.value);
    }
    const query = to.toString();
    history.replaceState(null, '', (query ? '?' + query : location.pathname) + location.hash);
  }

  function matching() {
    const want = verdicts();
    const words = form.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = several.map((key) => [key, form.elements[key] && form.elements[key].value]).filter(([, v]) => v);
    return links.filter((a) => (!want.length || want.includes(a.dataset.verdict))
      && chosen.every(([key, v]) => of(a, key) === v)
      && words.every((w) => a.title.toLowerCase().includes(w) || a.textContent.toLowerCase().includes(w)));
  }

  function lay() {
    const rows = form.elements.rows.value.split(' ');
    const column = form.elements.columns.value;
    const told = [...rows, column];
    const rest = several.filter((key) => !told.some((by) => decides(by, key)));
    const cells = matching();
    const columns = [...new Set(cells.map((a) => of(a, column)))];
    const squares = new Map();
    for (const a of cells) {
      const row = rows.map((key) => of(a, key)).join(' · ');
      if (!squares.has(row)) squares.set(row, new Map());
      const square = squares.get(row);
      if (!square.has(of(a, column))) square.set(of(a, column), []);
      square.get(of(a, column)).push(a);
      const also = rest.map((key) => of(a, key)).filter((v) => v !== 'default').join(' · ');
      let small = a.querySelector('small');
      if (!small && also) small = a.appendChild(make('small'));
      if (small) small.textContent = (also ? ' ' : '') + also;
    }
    const head = make('tr');
    head.append(make('th', titles[form.elements.rows.value], { scope: 'col' }), ...columns.map((c) => make('th', c, { scope: 'col' })));
    const thead = make('thead');
    thead.append(head);
    const body = make('tbody');
    for (const [name, square] of squares) {
      const tr = make('tr');
      tr.append(make('th', name, { scope: 'row' }));
      for (const c of columns) {
        const td = make('td');
        for (const a of square.get(c) || []) td.append(a, ' ');
        tr.append(td);
      }
      body.append(tr);
    }
    const table = make('table', undefined, { class: 'grid' });
    table.append(thead, body);
    holder.replaceChildren(table);
    tell(cells.length);
  }

  function tell(n) { shown.textContent = n + ' of ' + links.length + ' cells'; }

  // Long logs are shown by the page, and can be searched.
  function log(details) {
    const list = details.querySelector('ol');
    const lines = [...list.children].map((li, i) => { li.value = i + 1; return li; });
    const size = 500;
    let page = 0;
    const find = make('input', undefined, { type: 'search', 'aria-label': 'Find in ' + list.getAttribute('aria-label') });
    const back = make('button', 'Earlier', { type: 'button' });
    const on = make('button', 'Later', { type: 'button' });
    const where = make('output');
    function show() {
      const word = find.value.toLowerCase();
      const found = word ? lines.filter((li) => li.textContent.toLowerCase().includes(word)) : lines;
      const pages = Math.max(1, Math.ceil(found.length / size));
      page = Math.min(Math.max(page, 0), pages - 1);
      list.replaceChildren(...found.slice(page * size, (page + 1) * size));
      back.disabled = page === 0;
      on.disabled = page === pages - 1;
      where.textContent = found.length + ' lines, page ' + (page + 1) + ' of ' + pages;
    }
    find.addEventListener('input', () => { page = 0; show(); });
    back.addEventListener('click', () => { page--; show(); });
    on.addEventListener('click', () => { page++; show(); });
    const bar = make('p');
    bar.append(find, ' ', back, ' ', on, ' ', where);
    list.before(bar);
    // The end of a log is what is looked for.
    page = Infinity;
    show();
  }

  let open = null;
  function drill() {
    let name = location.hash.slice(1);
    try { name = decodeURIComponent(name); } catch { /* it is a name as it stands */ }
    const cell = document.getElementById(name);
    if (open) { open.hidden = true; }
    for (const a of links) a.removeAttribute('aria-current');
    if (!cell || !cell.classList.contains('cell')) { open = null; return; }
    const folded = cell.querySelector('noscript');
    if (folded) {
      // Parsed as the browser would have without scripts: nothing in it runs.
      const parsed = new DOMParser().parseFromString(folded.textContent, 'text/html');
      folded.replaceWith(...parsed.body.childNodes);
      for (const d of cell.querySelectorAll('details.log')) d.addEventListener('toggle', () => log(d), { once: true });
    }
    open = cell;
    cell.hidden = false;
    for (const a of links) if (a.hash === location.hash) a.setAttribute('aria-current', 'true');
    // It can be focused, or the browser, when it comes to the address' fragment,
    // would focus nothing.
    cell.tabIndex = -1;
    cell.focus({ preventScroll: true });
    cell.scrollIntoView();
  }

  form.hidden = false;
  document.getElementById('hint').hidden = false;
  form.addEventListener('submit', (e) => e.preventDefault());
  form.addEventListener('input', () => { write(); lay(); });
  form.addEventListener('reset', (e) => {
    e.preventDefault();
    for (const f of fields()) {
      if (f.type === 'checkbox') f.checked = false;
      else f.value = defaults[f.name] || '';
    }
    write();
    lay();
  });
  addEventListener('hashchange', drill);
  addEventListener('popstate', () => { read(); lay(); });
  addEventListener('keydown', (e) => {
    if (e.key === 'Escape' && open) { location.hash = 'grid'; document.getElementById('table').focus(); }
    if (e.key === '/' && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) { e.preventDefault(); form.elements.q.focus(); }
  });
  read();
  // As it came it is laid out for who chose nothing.
  if (location.search) lay(); else tell(links.length);
  drill();
})();
