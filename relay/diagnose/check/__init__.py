"""What a wrong configuration can break, looked for before it loses an order.

Gathering (`*_facts`) reads and never decides; judging (`*_rules`) decides and never reads. What
cannot be read is `unknown`, with how to get it, and never `ok`.
"""
