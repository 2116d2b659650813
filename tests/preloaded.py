"""What the processes of tests.two_machines are forked with: all that a training imports."""

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
import dk_detr.commands.train  # noqa: F401
import dk_detr.evaluation  # noqa: F401
