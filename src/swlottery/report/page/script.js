'use strict';
function sortedBy(column, down) {
  return function (a, b) {
    const x = a.cells[column].dataset.value, y = b.cells[column].dataset.value;
    if (x === y) return 0;
    if (x === '' || y === '') return x === '' ? 1 : -1; // empty cells come last, either way
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, 'en', { numeric: true }) : x - y;
    return down ? -order : order;
  };
}
document.querySelectorAll('th button').forEach(function (button) {
  button.addEventListener('click', function () {
    const head = button.parentNode, body = head.closest('table').tBodies[0];
    const down = head.getAttribute('aria-sort') === 'ascending';
    head.parentNode.querySelectorAll('th').forEach(function (other) { other.setAttribute('aria-sort', 'none'); });
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    Array.from(body.rows).sort(sortedBy(head.cellIndex, down)).forEach(function (row) { body.appendChild(row); });
  });
});

// Paper cannot be unfolded: all tables are open while the page is printed.
let opened = [];
window.addEventListener('beforeprint', function () {
  opened = Array.from(document.querySelectorAll('section details:not([open])'));
  opened.forEach(function (one) { one.open = true; });
});
window.addEventListener('afterprint', function () { opened.forEach(function (one) { one.open = false; }); });
