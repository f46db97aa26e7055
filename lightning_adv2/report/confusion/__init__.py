"""A confusion matrix of any number of classes: its content, its tables and its figure (Figure 18)."""

from lightning_adv2.report.confusion.content import confusion_content
from lightning_adv2.report.confusion.figure import confusion_figure
from lightning_adv2.report.confusion.tables import confusion_tables, print_confusion

__all__ = ["confusion_content", "confusion_figure", "confusion_tables", "print_confusion"]
