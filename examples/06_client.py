"""Guard a client that you have. What the upstream says is judged; the client keeps its class and its settings.

Needs `pip install openai`. No network: a transport in this process plays the model server.
"""

import json

import httpx2
from openai import OpenAI

from cosa_guard import Guard, Report
from cosa_sdk import Rule, SafetyConfig

config = SafetyConfig(
    name="shop",
    default="allow",
    rules=[Rule(id="rivals", stance="forbid", terms=["Globex Books"])],
    enforcement={"on_undecided": "allow"},
)


def model_server(request: httpx2.Request) -> httpx2.Response:
    asked = json.loads(request.content)["messages"][-1]["content"]
    message = {"role": "assistant", "content": f"You asked: {asked}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return httpx2.Response(200, json=body)


def told(report: Report) -> None:
    print(f"  {report.act}, by rules {report.rulings[-1].decision.rules}")


plain = OpenAI(api_key="none", http_client=httpx2.Client(transport=httpx2.MockTransport(model_server)))
client = Guard(config, judge="rules", accept_unexamined=True).wrap(plain, on_report=told)
for question in ("Do you sell maps?", "Is G\u200blobex Books cheaper?"):
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": question}])
    print(type(client).__name__, answer.choices[0].finish_reason, answer.choices[0].message.content)
