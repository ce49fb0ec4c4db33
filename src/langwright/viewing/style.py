"""The one style sheet: paper and ink in light and dark, on screens and in print. System fonts only."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d1c1a; --soft: #67635b; --line: #e3dfd6; --grid: #ece9e1;
  --accent: #2458b8; --accent-wash: #e9eff9; --second: #c05717; --good: #23713f; --bad: #b03027; --heat: #2458b8;
  --serif: Charter, "Bitstream Charter", "Iowan Old Style", "Source Serif 4", Cambria, Georgia, serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #131417; --card: #1a1b1f; --ink: #e9e6df; --soft: #a19c91; --line: #303138; --grid: #26272d;
    --accent: #84aef5; --accent-wash: #1f2a3f; --second: #f0a065; --good: #78c792; --bad: #f08a80; --heat: #84aef5;
  }
}
@media print {
  :root {
    --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --grid: #ddd;
    --accent: #2458b8; --accent-wash: #e9eff9; --second: #c05717; --good: #23713f; --bad: #b03027; --heat: #2458b8;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.6 var(--sans); }
main { max-width: 1080px; margin: 0 auto; padding: 4.5rem 2rem 3rem; }
p { margin: 0 0 1em; }
a { color: var(--accent); text-underline-offset: .2em; }
h1, h2 { font-family: var(--serif); font-weight: 600; letter-spacing: -.012em; line-height: 1.15; text-wrap: balance; }
h1 { font-size: clamp(2rem, 5vw, 3.1rem); margin: 0 0 1rem; }
h2 { font-size: 1.75rem; margin: 0 0 1rem; }
h2 + .section-lead { margin-top: -.375rem; }
h3 { font-size: 1rem; font-weight: 650; margin: 2.25rem 0 .75rem; }
.overline { color: var(--soft); font-size: .875rem; margin: 0 0 .75rem; }
.lead { font: 1.25rem/1.5 var(--serif); color: var(--ink); max-width: 44em; margin: 0; text-wrap: pretty; }
.section-lead, .note { color: var(--soft); max-width: 44em; text-wrap: pretty; }
.note { font-size: .875rem; margin: .75rem 0 0; }
section { margin-top: 4rem; padding-top: 2.25rem; border-top: 1px solid var(--line); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin-top: 2.5rem; font-size: .9375rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
footer { margin-top: 4.5rem; padding-top: 1.25rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .8125rem; }
pre, code { font-family: var(--mono); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }

.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1.5rem 2rem;
  margin: 2.75rem 0 0; padding: 1.5rem 0 0; border-top: 2px solid var(--ink); }
.facts div { display: flex; flex-direction: column; }
.facts dt { color: var(--soft); font-size: .8125rem; }
.facts dd { margin: 0; order: -1; font: 600 1.625rem/1.25 var(--serif); font-variant-numeric: lining-nums; }
.facts .fact-note { order: 1; color: var(--soft); font: .8125rem/1.4 var(--sans); }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; }
caption { text-align: left; color: var(--soft); font-size: .875rem; padding-bottom: .5rem; }
th, td { text-align: left; padding: .5rem 1.25rem .5rem 0; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--soft); font-size: .8125rem; font-weight: 500; white-space: nowrap; }
tbody th { font-weight: 500; }
.number { text-align: right; font-variant-numeric: tabular-nums lining-nums; white-space: nowrap; }
.better { color: var(--good); } .worse { color: var(--bad); }

.bars td.bar { width: 44%; min-width: 9rem; }
.bars tbody th { white-space: nowrap; }
.bars td, .bars th { vertical-align: top; }
.bars .track { display: block; height: 1.125rem; margin-top: .1875rem; }
.bars .fill { display: block; height: 100%; min-width: 2px; background: var(--soft); opacity: .42;
  border-radius: 0 2px 2px 0; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.bars .ours th, .bars .ours .number { font-weight: 700; }
.bars .ours .fill { background: var(--accent); opacity: 1; }
.bars td.remark { color: var(--soft); font-size: .875rem; }

figure { margin: 0; min-width: 0; }
figcaption { color: var(--soft); font-size: .875rem; margin-top: .5rem; max-width: 50em; text-wrap: pretty; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 2.5rem;
  margin-top: 2.5rem; }
svg { display: block; max-width: 100%; height: auto; }
svg text { font: 12px var(--sans); fill: var(--soft); font-variant-numeric: tabular-nums; }
.chart { width: 100%; }
.grid { stroke: var(--grid); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; }
.series { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.series.faint { stroke-width: 1; opacity: .32; }
.c0 { stroke: var(--accent); } .c1 { stroke: var(--second); } .c2 { stroke: var(--good); } .c3 { stroke: var(--soft); }
.dot { fill: var(--card); stroke-width: 2; }
.legend { fill: var(--ink); }
.chart-title { font-weight: 600; font-size: 13px; fill: var(--ink); }
.probe rect { fill: transparent; }
.probe line, .probe circle, .probe text { opacity: 0; pointer-events: none; }
.probe:hover line, .probe:hover circle, .probe:hover text { opacity: 1; }
.probe line { stroke: var(--soft); stroke-width: 1; }
.probe text { fill: var(--ink); text-anchor: end; }

.samples { display: grid; gap: 1.5rem; }
.sample { border: 1px solid var(--line); border-radius: 6px; background: var(--card); overflow: hidden; }
.sample > p { display: flex; justify-content: space-between; gap: 1rem; margin: 0; padding: .625rem 1.125rem;
  border-bottom: 1px solid var(--line); font-size: .8125rem; color: var(--soft); }
.verdict { font-weight: 600; } .verdict.good { color: var(--good); } .verdict.bad { color: var(--bad); }
.sample pre { margin: 0; padding: 1rem 1.125rem; font-size: .8125rem; line-height: 1.6; white-space: pre-wrap;
  overflow-wrap: anywhere; unicode-bidi: isolate; color: var(--soft); tab-size: 4; }
.sample pre ins { color: var(--ink); text-decoration: none; background: var(--accent-wash);
  box-decoration-break: clone; -webkit-box-decoration-break: clone; }
.sample details { border-top: 1px solid var(--line); }
summary { cursor: pointer; color: var(--soft); font-size: .8125rem; padding: .5rem 1.125rem; }
.values { margin-top: 1.5rem; } .values > summary { padding-left: 0; }

.definitions { margin: 0; display: grid; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr));
  column-gap: 3rem; font-size: .9375rem; }
.definitions div { display: flex; justify-content: space-between; gap: 1.5rem; padding: .4rem 0;
  border-bottom: 1px solid var(--line); }
.definitions dt { color: var(--soft); overflow-wrap: anywhere; }
.definitions dd { margin: 0; text-align: right; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.card .definitions { display: block; max-width: 50em; }
.card .definitions div { display: grid; grid-template-columns: 11rem 1fr; justify-content: start; padding: .625rem 0; }
.card .definitions dd { text-align: left; white-space: pre-line; }

.heads { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1rem; margin: 1.25rem 0; }
.heads label { display: block; cursor: pointer; padding: .5rem; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); font-size: .8125rem; color: var(--soft); }
.heads label span { display: block; margin-bottom: .375rem; }
.heads label:hover { border-color: var(--soft); }
.heads svg { width: 100%; }
.attention > input { position: absolute; opacity: 0; pointer-events: none; }
.large { display: none; }
.large svg { margin: 0 auto; max-width: none; }
.heat { fill: var(--heat); stroke: none; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.frame { fill: none; stroke: var(--line); vector-effect: non-scaling-stroke; }
.row rect { fill: transparent; }
.row:hover rect { stroke: var(--second); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.token text { font-family: var(--mono); font-size: inherit; fill: var(--ink); }
.layer { display: grid; grid-template-columns: 6.5rem 1fr; gap: 1rem; padding: .625rem 0;
  border-bottom: 1px solid var(--line); }
.layer h3 { margin: 0; font-size: .8125rem; font-weight: 600; color: var(--soft); }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(5.5rem, 7.5rem)); gap: .75rem; }
.maps figure { margin: 0; } .maps svg { display: block; width: 100%; background: var(--card); }
.maps figcaption { margin: .25rem 0 0; font-size: .75rem; }
.cold { fill: var(--second); stroke: none; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.warm { fill: var(--good); stroke: none; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.hidden-key { fill: var(--line); stroke: none; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.heat-key { margin: 1rem 0 0; }
.cautions { margin: 1.5rem 0 0; padding-left: 1.125rem; color: var(--soft); font-size: .875rem; max-width: 50em; }
.cautions li { margin: .25rem 0; }

@media (max-width: 640px) {
  main { padding: 2.5rem 1.125rem 2rem; }
  .bars td.bar { width: 24%; min-width: 3.5rem; }
  .bars tbody th { white-space: normal; }
  .card .definitions div { grid-template-columns: 1fr; gap: 0; }
  .layer { grid-template-columns: 1fr; gap: .375rem; }
}
@media print {
  html { font-size: 11.5px; }
  main { max-width: none; padding: 0; }
  nav, details:not([open]) { display: none; }
  section { margin-top: 2rem; padding-top: 1.25rem; }
  .scroll { overflow: visible; }
  .chart { min-width: 0 !important; }
  .large svg { max-width: 100%; }
  .pair, .definitions { grid-template-columns: 1fr 1fr; }
  .heads { grid-template-columns: repeat(6, 1fr); }
  .layer { break-inside: avoid; }
  figure, article, tr, .bars, .definitions div, .heads label, .cautions { break-inside: avoid; }
  h2, h3, .section-lead { break-after: avoid; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
"""
