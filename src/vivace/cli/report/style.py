"""How the report looks: light and dark, on paper, on a phone."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--page:#fbfaf7;--card:#fff;--ink:#22252a;--soft:#5d636e;
--line:#e4e1d9;--grid:#eeebe4;--accent:#2f5d8a;--wash:#eef3f8;--warn:#9a4a1c;--warn-wash:#fbf0e6;
--a:#6b7280;--b:#2a6fb0;--c:#1b8a6b;--d:#c2571a;--e:#9c3d86;--f:#7a6a2f}
@media(prefers-color-scheme:dark){:root{--page:#16181c;--card:#1d2025;--ink:#e6e5e1;--soft:#a2a7b0;
--line:#32363d;--grid:#292d33;--accent:#8fbbe6;--wash:#202a35;--warn:#f0b07f;--warn-wash:#33261c;
--a:#a3a9b4;--b:#6fb0ec;--c:#53c3a1;--d:#f0935a;--e:#d98ac7;--f:#cbb866}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.6 system-ui,-apple-system,
"Segoe UI",Roboto,"Noto Sans","PingFang SC","Microsoft YaHei","Noto Sans CJK SC",
"WenQuanYi Micro Hei",sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1020px;margin:0 auto;padding:48px 24px 64px}
.over{color:var(--soft);font-size:14px;letter-spacing:.04em;margin:0}
h1{font-size:30px;line-height:1.25;font-weight:650;letter-spacing:-.01em;margin:4px 0 20px}
h2{font-size:19px;font-weight:650;margin:52px 0 12px}
p{margin:0 0 10px}
.choice{font-size:20px;line-height:1.5;max-width:42em}
.reason,.note{color:var(--soft);max-width:46em}
.note{font-size:14px}
.warn{background:var(--warn-wash);color:var(--warn);border-radius:8px;padding:10px 14px;
font-weight:550}
.chips{list-style:none;display:flex;flex-wrap:wrap;gap:8px;padding:0;margin:18px 0 0;font-size:14px}
.chips li{border:1px solid var(--line);border-radius:999px;padding:3px 12px;background:var(--card)}
.chips li:first-child{border-color:transparent;background:none;padding-left:0;color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));
background:var(--card);border:1px solid var(--line);border-radius:12px;overflow:hidden;
margin:24px 0 10px}
.tiles div{box-shadow:0 0 0 .5px var(--line);padding:14px 18px}
.tiles dt{color:var(--soft);font-size:13px}
.tiles dd{margin:2px 0 0;font-size:22px;font-weight:600;font-variant-numeric:tabular-nums;
white-space:nowrap}
.tiles small{display:block;font-size:13px;font-weight:400;color:var(--soft)}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:16px 16px 12px}
.scroll{overflow-x:auto}
figcaption{color:var(--soft);font-size:14px;margin:8px 4px 2px}
.plot{display:block;width:100%;min-width:560px;height:auto;font-family:inherit}
.plot text{fill:var(--ink);paint-order:stroke;stroke:var(--card);stroke-width:3px;
stroke-linejoin:round}
.plot .tick,.plot .axis-name{fill:var(--soft);stroke:none}
.plot .grid{stroke:var(--grid)}.plot .axis{stroke:var(--line)}
.plot .floor{stroke:var(--warn);stroke-width:1.5;stroke-dasharray:6 4}
.plot .floor-name{fill:var(--warn)}
.plot polyline{fill:none}
.plot .frontier{stroke:var(--soft);stroke-width:7;opacity:.2;stroke-linecap:round;
stroke-linejoin:round}
.plot .series{stroke-width:1.3;opacity:.75}
.plot .bar{stroke-width:1.2;opacity:.55}.plot .strong{stroke-width:2;opacity:1}
.plot .mark{stroke:var(--card);stroke-width:1}
.plot .ring{fill:none;stroke:var(--ink);stroke-width:2}
.plot .chosen-name{font-weight:650}.plot .name{font-weight:500}
.ink-a{stroke:var(--a)}.ink-b{stroke:var(--b)}.ink-c{stroke:var(--c)}.ink-d{stroke:var(--d)}
.ink-e{stroke:var(--e)}.ink-f{stroke:var(--f)}
.fill-a{fill:var(--a)}.fill-b{fill:var(--b)}.fill-c{fill:var(--c)}.fill-d{fill:var(--d)}
.fill-e{fill:var(--e)}.fill-f{fill:var(--f)}
.plot text.ink-a{fill:var(--a)}.plot text.ink-b{fill:var(--b)}.plot text.ink-c{fill:var(--c)}
.plot text.ink-d{fill:var(--d)}.plot text.ink-e{fill:var(--e)}.plot text.ink-f{fill:var(--f)}
.plot text.name{stroke:var(--card)}
.frame{background:var(--card);border:1px solid var(--line);border-radius:12px;overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{padding:8px 10px;text-align:left;border-top:1px solid var(--line);vertical-align:top}
thead th{border-top:0;color:var(--soft);font-weight:500;vertical-align:bottom}
.n{text-align:right;white-space:nowrap}
.frame th.n{white-space:normal}
.n small{color:var(--soft);font-size:12px}
td .dot{display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:8px}
.dot.fill-a{background:var(--a)}.dot.fill-b{background:var(--b)}.dot.fill-c{background:var(--c)}
.dot.fill-d{background:var(--d)}.dot.fill-e{background:var(--e)}.dot.fill-f{background:var(--f)}
.named{white-space:nowrap;font-weight:550}
tr.won td{background:var(--wash)}
tr.won .verdict{font-weight:650;color:var(--accent)}
tr.out{color:var(--soft)}
.verdict{min-width:130px}
dl.facts{display:grid;grid-template-columns:minmax(110px,max-content) 1fr;gap:8px 24px;margin:0}
dl.facts dt{color:var(--soft)}
dl.facts dd{margin:0;overflow-wrap:anywhere}
dl.facts dd small{display:block;color:var(--soft);font-size:14px}
pre{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 18px;
white-space:pre-wrap;overflow-wrap:anywhere;font:14px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,
"DejaVu Sans Mono",monospace;margin:0}
footer{margin-top:52px;padding-top:16px;border-top:1px solid var(--line);color:var(--soft);
font-size:14px}
@media(max-width:700px){main{padding:28px 16px 48px}h1{font-size:25px}.choice{font-size:18px}
.frame{border:0;background:none;overflow:visible}
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table,tbody,td{display:block}
tr{display:grid;grid-template-columns:1fr 1fr;background:var(--card);
border:1px solid var(--line);border-radius:12px;margin-bottom:10px;padding:8px 0}
tr.won td{background:none}tr.won{background:var(--wash)}
td,td.n,.verdict{border:0;min-width:0;padding:3px 14px;text-align:left;white-space:normal}
td::before{content:attr(data-label);display:block;color:var(--soft);font-size:12px;
font-weight:400}
td.named,td.prose{grid-column:1/-1}td.named{font-size:16px}
td.named::before,td.prose::before{content:none}
dl.facts{grid-template-columns:1fr;gap:2px}dl.facts dd{margin-bottom:10px}}
@media print{:root{--page:#fff;--wash:#f2f5f8}body{font-size:12px}main{max-width:none;padding:0}
h2{margin-top:28px;break-after:avoid}.tiles{grid-template-columns:repeat(5,1fr)}
.tiles div{padding:8px 10px}.tiles dd{font-size:15px}
figure,tr,.tiles{break-inside:avoid}table,.n small{font-size:10.5px}.note{break-after:avoid}
th,td{padding:4px 6px}.frame{overflow:visible}.choice{font-size:15px}
.plot{min-width:0;max-height:85mm}}
"""
