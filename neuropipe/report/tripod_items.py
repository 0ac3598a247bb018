"""The items of TRIPOD+AI in short, and what to write where no table tells.

Collins et al. 2024, BMJ 385:e078378, doi:10.1136/bmj-2023-078378; the words here are our own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One item (or sub-item) of the checklist.

    Attributes
    ----------
    number : str
        As in the statement: ``12c``.
    topic : str
        What it is about.
    write : str
        What has to be written by hand, wholly or beside what tables tell.
    """

    number: str
    topic: str
    write: str


SECTIONS: dict[str, list[Item]] = {
    "Title and abstract": [
        Item("1", "Title", "a title that names development or evaluation, the people and the outcome"),
        Item("2", "Abstract", "an abstract by the TRIPOD+AI list for abstracts"),
    ],
    "Introduction": [
        Item("3a", "Context", "the setting in care, whether diagnostic or prognostic, why a model, which models exist"),
        Item("3b", "People and purpose", "for whom it is meant, where in the pathway of care, and who is to use it"),
        Item("3c", "Inequalities", "known inequalities in health between groups of people"),
        Item("4", "Objectives", "the aims, and whether a model is developed, evaluated, or both"),
    ],
    "Methods": [
        Item("5a", "Sources of data", "why these data were used and whom they represent"),
        Item("5b", "Dates", "when people were recruited and, if they were followed, until when"),
        Item("6a", "Setting", "the kind of centres (primary or secondary care, community), their number and countries"),
        Item("6b", "Eligibility", "who could take part in the studies that the data come from"),
        Item("6c", "Treatments", "treatments that people received, and how they were handled"),
        Item("7", "Preparation", "whether preparation and its quality are alike across groups of people"),
        Item("8a", "Outcome", "how, when and by what criteria the outcome was assessed, alike in all groups or not"),
        Item("8b", "Assessors", "qualification of those who assessed the outcome, where judgement is needed"),
        Item("8c", "Blinding of the outcome", "whether the outcome was assessed without knowledge of the images"),
        Item("9a", "Choice of predictors", "why these predictors were considered"),
        Item("9b", "Definition of predictors", "scanners and sequences of the images, and when they were taken"),
        Item("9c", "Assessors of predictors", "who judged, where predictors need judgement"),
        Item("10", "Sample size", "how the size was arrived at and why it is enough"),
        Item("11", "Missing data", "why data are missing"),
        Item("12a", "Use of the data", "how data were divided between development and evaluation"),
        Item("12b", "Handling of predictors", "scaling and transformation of predictors"),
        Item("12c", "Model building", "kind of model, tuning, internal validation"),
        Item("12d", "Heterogeneity", "how differences between centres or groups were handled"),
        Item("12e", "Measures", "measures and plots of performance, and why these"),
        Item("12f", "Updating", "whether the model was updated after its evaluation"),
        Item("12g", "Predictions", "how the predictions were computed"),
        Item("13", "Class imbalance", "whether and how classes were balanced, and how this was recalibrated"),
        Item("14", "Fairness", "what was done for fairness, and why"),
        Item("15", "Output", "what the model returns, and where thresholds come from"),
        Item("16", "Development against evaluation", "differences in setting, eligibility, outcome and predictors"),
        Item("17", "Ethics", "the committee that approved the study, and consent"),
    ],
    "Open science": [
        Item("18a", "Funding", "who paid, and their part in the study"),
        Item("18b", "Interests", "conflicts of interest"),
        Item("18c", "Protocol", "where the protocol can be read, or that there was none"),
        Item("18d", "Registration", "where the study is registered, or that it is not"),
        Item("18e", "Data", "where and how the data can be had"),
        Item("18f", "Code", "where and how the code can be had"),
        Item("19", "Patients and public", "how patients or the public took part, or that they did not"),
    ],
    "Results": [
        Item("20a", "Flow of participants", "how people came through the study"),
        Item("20b", "Characteristics", "what else describes the people (symptoms, medication, follow-up)"),
        Item("20c", "Comparison of the sides", "how evaluation data compare with development data"),
        Item("21", "People and events", "numbers of people and of events in each analysis"),
        Item("22", "The model itself", "how others get the model, and on what terms"),
        Item("23a", "Performance", "performance with intervals, in key groups too"),
        Item("23b", "Heterogeneity of performance", "how performance differs between centres"),
        Item("24", "Result of updating", "the updated model and its performance"),
    ],
    "Discussion": [
        Item("25", "Interpretation", "what the results mean beside earlier studies, fairness included"),
        Item("26", "Limitations", "further limits: whom the sample does not stand for, overfitting, missing data"),
        Item("27a", "Poor input", "what to do with images of poor quality or missing ones in use"),
        Item("27b", "Users", "what users must do and know"),
        Item("27c", "Next steps", "what has to be done before use, for applicability and generalisation"),
    ],
}


def items() -> list[Item]:
    """Return all items in order."""
    return [item for section in SECTIONS.values() for item in section]
