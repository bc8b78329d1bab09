"""Serve an exported surrogate over HTTP: python serve.py FOLDER [PORT]; needs torch, but neither alearn nor the study."""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import torch

folder = Path(sys.argv[1])
card = json.loads((folder / "card.json").read_text())
surrogate = torch.export.load(folder / "surrogate.pt2").module()


class Handler(BaseHTTPRequestHandler):
    """Answers one question, or a list of them, at a time."""

    def do_POST(self):  # {"push": 1.0, "friction": 0.2, "t": 3.0} or a list of such
        try:
            asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            rows = asked if isinstance(asked, list) else [asked]
            columns = [torch.tensor([[float(row[p["name"]]) for p in card["inputs"]] for row in rows], dtype=torch.float64)]
            if card["t"]:
                columns.append(torch.tensor([float(row["t"]) for row in rows], dtype=torch.float64))
            mean, std = (values.tolist() for values in surrogate(*columns))
            names = [output["name"] for output in card["outputs"]]
            body = [{n: {"mean": m, "std": s} for n, m, s in zip(names, *pair, strict=True)} for pair in zip(mean, std, strict=True)]
            code = 200
        except (KeyError, TypeError, ValueError) as error:
            code, body = 400, {"error": f"{type(error).__name__}: {error}", "inputs": card["inputs"], "t": card["t"]}
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *words):
        pass


server = HTTPServer(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 8080), Handler)
print(f"serving {card['study']} on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
