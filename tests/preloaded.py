"""What the processes of tests.two_machines are forked with: all that a training imports."""

import dk_detr
import dk_detr.commands.train
import dk_detr.evaluation  # noqa: F401
